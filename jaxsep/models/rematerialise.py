"""Networks whose layers are computed again in the backward pass, so that what is inside of them is not kept till then.

Which modules are layers is stated by each family, in `Family.layers`.
"""

import fnmatch
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax


def layers_rematerialised(patterns: tuple[str, ...]) -> AbstractContextManager[Any]:
    """Returns a context in which `apply` of a network computes its layers under `jax.checkpoint`.

    Layers keep no variables of their own but parameters; dropout has the same keys in both passes.

    Args:
        patterns: Shell patterns of the paths of layers, such as 'encoder_*'.
    """

    def intercept(
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: Any,  # flax's InterceptorContext, whose annotations do not resolve
    ) -> Any:
        module = context.module
        path = "/".join(module.path)
        if context.method_name != "__call__" or not any(fnmatch.fnmatchcase(path, each) for each in patterns):
            return call(*args, **kwargs)
        # By itself it has no path, and is not met here again.
        layer, variables = module.unbind()
        rngs = {"dropout": module.make_rng("dropout")} if module.has_rng("dropout") else {}
        leaves, tree = jax.tree.flatten((args, dict(kwargs)))
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

        def compute(variables: Any, rngs: Any, arrays: list[jax.Array]) -> Any:
            given = dict(zip(places, arrays, strict=True))
            filled = [given.get(place, leaf) for place, leaf in enumerate(leaves)]
            own_args, own_kwargs = jax.tree.unflatten(tree, filled)
            return layer.apply(variables, *own_args, rngs=rngs, **own_kwargs)

        return jax.checkpoint(compute)(variables, rngs, [leaves[place] for place in places])

    return nn.intercept_methods(intercept)
