"""Small models for the tests of checkpoints: a spec, and variables made without the code under test."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep.models.spec import ModelSpec
from jaxsep.models.unet import UNet

CONFIG = {"n_sources": 2, "channels": 2, "bins": 16, "filters": (2, 3), "encoder_activation": "elu"}


def small_spec(*, masks: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    data = {
        "name": "small",
        "family": "unet",
        "config": CONFIG,
        "stems": ("vocals", "accompaniment"),
        "sample_rate": 8000,
        "channels": 2,
        "domain": {"kind": "magnitude", "stft": {"n_fft": 64, "hop_length": 16}, "masks": masks or {}},
        "procedure": {"cutting": {"chunk_length": 8 * 16 + 48, "chunk_hop": 8 * 16}},
        "licence": "MIT",
        "provenance": "made up, señor",
    }
    return ModelSpec.parse({**data, **changes}, where="the test")


def small_variables(spec: ModelSpec, seed: int = 0) -> dict[str, Any]:
    """Random numbers of the shapes that the module itself would initialise."""
    module = UNet(spec.config, form="native")
    mixture = jnp.zeros((1, 8, 16, 2))
    variables = jax.eval_shape(lambda key: module.init(key, mixture, train=False), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), variables)


def assert_same_variables(found: Any, expected: Any) -> None:
    """Equal bit for bit, path for path."""
    found, expected = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (found, expected))
    assert found.keys() == expected.keys()
    for path in expected:
        assert found[path].dtype == np.float32
        np.testing.assert_array_equal(found[path], expected[path])
