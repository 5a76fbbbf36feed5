"""Variables as a flat {'params/encoder_0/kernel': array}, and what a model's variables must look like. No files."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from jaxsep.config import Config
from jaxsep.models import find_family
from jaxsep.models.spec import ModelSpec
from jaxsep.typing import Variables

Shapes = Mapping[str, tuple[int, ...]]


def flatten(variables: Variables) -> dict[str, Any]:
    """Returns the leaves of nested mappings by their paths, joined by slashes, in order of the paths."""
    leaves: dict[str, Any] = {}

    def visit(node: Any, path: str) -> None:
        if not isinstance(node, Mapping):
            leaves[path] = node
            return
        for key, child in node.items():
            visit(child, f"{path}/{key}" if path else str(key))

    visit(variables, "")
    return dict(sorted(leaves.items()))


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested dicts whose leaves have these paths; the inverse of `flatten`."""
    variables: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return variables


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Returns the path and shape of every variable of a model, by tracing its initialisation: nothing is computed."""
    return dict(_expected_shapes(spec.family, spec.config, (1, *spec.input_shape())))


@cache
def _expected_shapes(family: str, config: Config, inputs: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    module = find_family(family).build(config)
    if hasattr(module, "form"):
        # How convolutions are computed does not change what they hold, and the native form is traced fastest.
        module = module.clone(form="native")
    variables = jax.eval_shape(
        lambda key, inputs: module.init(key, inputs, train=False),
        jax.eval_shape(lambda: jax.random.key(0)),
        jax.ShapeDtypeStruct(inputs, jnp.float32),
    )
    return {path: tuple(leaf.shape) for path, leaf in flatten(variables).items()}


def mismatches(found: Shapes, expected: Shapes) -> str:
    """Returns how leaves differ from what a model needs, as clauses joined by semicolons; empty where they do not."""
    clauses = [
        _clause("missing", sorted(expected.keys() - found.keys())),
        _clause("not of the model", sorted(found.keys() - expected.keys())),
        _clause(
            "of another shape",
            [
                f"{path} (got {found[path]}, expected {expected[path]})"
                for path in sorted(found.keys() & expected.keys())
                if found[path] != expected[path]
            ],
        ),
    ]
    return "; ".join(filter(None, clauses))


def _clause(what: str, paths: Iterable[str]) -> str:
    paths = list(paths)
    return f"{len(paths)} {what}: {', '.join(paths)}" if paths else ""
