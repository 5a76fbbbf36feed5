"""The step of every recipe, exported for accelerators as it is: loss, optimizer, augmentation and all."""

from functools import partial
from pathlib import Path

import jax
import pytest
from jax import export

from train.config import load_config
from train.program import step_shapes

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLES = 4
ACCELERATORS = ("cuda", "tpu")
# Of each network, in XLA's own form: every convolution, its gradient to its input and its gradient to its kernel.
# Nobody asks for the gradient to the mixture.
CONVOLUTIONS = {
    "unet": lambda config: 3 * (2 * len(config.filters) + 1) - 1,  # as many decoders as encoders, and the mask
    "jansson": lambda config: 3 * 2 * len(config.filters) - 1,  # the last decoder is the mask
    # Two in each block of encoder and decoder, a transposed one into each block of the decoder, and the mask.
    "classic_unet": lambda config: 3 * (2 * (2 * len(config.filters) - 1) + len(config.filters) - 1 + 1) - 1,
    # Two on either side of every change of rate but the innermost, which has one between; and the output.
    "wave_unet_resampled": lambda config: 3 * (4 * (len(config.filters) - 1) + 1 + 1) - 1,
}


def load(recipe):
    path = CONFIGS / f"{recipe}.yaml"
    return load_config(path, [] if recipe == "smoke" else ["data.root=nowhere"])


# The weights that it begins with are not here; its network is that of htdemucs.
NOT_HERE = "htdemucs_finetune"
RECIPES = sorted(
    path.stem for path in CONFIGS.glob("*.yaml") if not path.stem.startswith("study_") and path.stem != NOT_HERE
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_step_of_a_recipe_is_exported_with_native_convolutions(recipe, inlined):
    config = load(recipe)
    program, *shapes = step_shapes(config, (EXAMPLES,))

    def exported(platforms, **changes):
        # Alone on its device: jax.export refuses pmap, and an axis there is none.
        network = program.network
        fields = {name: value for name, value in {"axis_name": None, **changes}.items() if hasattr(network, name)}
        loss_fn = partial(program.step.keywords["loss_fn"], model=network.clone(**fields))
        # One for both platforms, so that it is traced once.
        step = jax.jit(partial(program.step, loss_fn=loss_fn, axis_name=None), donate_argnums=0)
        return [export.export(step, platforms=[platform])(*shapes) for platform in platforms]

    def convolutions(step):
        return inlined(step.mlir_module()).count("stablehlo.convolution")

    shape, family = config.model.config, config.model.family
    if family in CONVOLUTIONS:
        networks = shape.n_sources if getattr(shape, "separate", True) else 1
        expected = [networks * CONVOLUTIONS[family](shape)] * len(ACCELERATORS)
    else:  # where cut blocks and branches make the count a long story: as many as XLA's own form has
        # XLA's own form is the same program on every platform.
        (native,) = exported(ACCELERATORS[:1], form="native")
        expected = [convolutions(native)] * len(ACCELERATORS)
        assert expected[0] > 3 * (shape.levels if family == "wave_unet" else shape.depth)
    for platform, step, count in zip(ACCELERATORS, exported(ACCELERATORS), expected, strict=True):
        assert step.platforms == (platform,)
        assert convolutions(step) == count
        # What goes in comes out: the state in the same types, and what the step tells.
        state = jax.tree.leaves(shapes[0])
        assert [leaf.dtype for leaf in step.out_avals[: len(state)]] == [leaf.dtype for leaf in state]
