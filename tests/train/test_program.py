"""Where a run starts from, and what of it is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights.small_models import assert_same_variables, small_spec, small_variables

from jaxsep.errors import CheckpointError, ConfigError
from jaxsep.models import FAMILIES
from jaxsep.weights.checkpoint import save_checkpoint
from jaxsep.weights.tree import expected_shapes, flatten
from train.config import RunConfig
from train.program import build_network, build_program, initial_state, initial_variables, state_bytes

SPEC = small_spec()


def config_of(**changes):
    data = {"model": SPEC.model_dump(), "data": {"layout": "synthetic"}, "training": {"steps": 1}, **changes}
    return RunConfig.parse(data, where="the test")


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path / "start.safetensors", SPEC, small_variables(SPEC))
    return str(tmp_path / "start.safetensors")


def test_random_variables_are_those_of_the_modules_own_initialisers():
    config = config_of()
    module = FAMILIES["unet"].module(SPEC.config, form="native")
    key = jax.random.fold_in(jax.random.key(0), 0)
    expected = module.init(key, jnp.zeros((1, 8, 16, 2)), train=False)
    # Compiled or not: rounding of the initialisers' scale.
    jax.tree.map(
        lambda found, leaf: np.testing.assert_allclose(found, leaf, rtol=1e-6), initial_variables(config), expected
    )


def test_another_seed_draws_other_numbers():
    first, other = (flatten(initial_variables(config_of(training={"steps": 1, "seed": seed}))) for seed in (0, 1))
    assert all(np.abs(first[path] - other[path]).max() > 0 for path in first if path.endswith("conv/kernel"))


def test_a_checkpoint_is_where_a_run_starts(checkpoint):
    found = initial_variables(config_of(init={"checkpoint": checkpoint}))
    assert_same_variables(found, small_variables(SPEC))


def test_what_is_fresh_is_drawn_and_the_rest_is_loaded(checkpoint):
    found = flatten(initial_variables(config_of(init={"checkpoint": checkpoint, "fresh": ["params/source_1/*"]})))
    loaded, drawn = flatten(small_variables(SPEC)), flatten(initial_variables(config_of()))
    for path in expected_shapes(SPEC):
        np.testing.assert_array_equal(found[path], (drawn if path.startswith("params/source_1/") else loaded)[path])


def test_a_model_with_more_stems_starts_from_one_with_fewer(checkpoint):
    three = {
        **SPEC.model_dump(),
        "stems": ("vocals", "accompaniment", "drums"),
        "config": {**SPEC.config.model_dump(), "n_sources": 3},
    }
    patterns = ["params/source_2/*", "batch_stats/source_2/*"]
    found = flatten(initial_variables(config_of(model=three, init={"checkpoint": checkpoint, "fresh": patterns})))
    for path, leaf in flatten(small_variables(SPEC)).items():
        np.testing.assert_array_equal(found[path], leaf)
    with pytest.raises(ConfigError, match=r"needs 'batch_stats/source_2.* has nothing; .*name it in init.fresh"):
        initial_variables(config_of(model=three, init={"checkpoint": checkpoint}))


def test_what_cannot_be_started_from_is_refused(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"'decoder' matches no variable; they are called like 'batch_stats/"):
        initial_variables(config_of(init={"checkpoint": checkpoint, "fresh": ["decoder"]}))
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        initial_variables(config_of(init={"checkpoint": str(tmp_path / "gone.safetensors")}))


def test_frozen_parameters_have_no_optimizer_state():
    config = config_of(optimizer={"frozen": ["source_0/*"]})
    variables = initial_variables(config)
    program = build_program(config, variables["params"])
    state = initial_state(config, program, variables)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
    assert any("source_1" in path for path in paths)
    assert not any("source_0" in path for path in paths)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": {"frozen": ["source_0/*"]}},
        {"optimizer": {"kind": "sgd"}, "training": {"steps": 1, "ema_decay": 0.9}},
    ],
)
def test_the_size_of_a_state_is_known_before_there_is_one(changes):
    config = config_of(**changes)
    variables = initial_variables(config)
    state = initial_state(config, build_program(config, variables["params"]), variables)
    assert state_bytes(config) == sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def test_bfloat16_is_what_is_computed_in_and_float32_what_is_kept():
    config = config_of(training={"steps": 1, "compute_dtype": "bfloat16"})
    assert build_network(config).dtype == "bfloat16"
    variables = initial_variables(config)
    state = initial_state(config, build_program(config, variables["params"]), variables)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
