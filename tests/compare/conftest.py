"""What the tests of comparisons share: the command, in a cache of its own, and weights to compare."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from jax.experimental.compilation_cache import compilation_cache
from typer.testing import CliRunner

from jaxsep.cli.main import app
from jaxsep.models.wave_unet_resampled import low_pass
from jaxsep.weights.tree import expected_shapes, unflatten

CACHE_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What one test compiles, others need not: it is most of the time that they take."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def parity(tmp_path, monkeypatch, cache):
    """Runs the command and returns its result and its report."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXSEP_CACHE", str(cache))
    before = {name: jax.config.values[name] for name in CACHE_SETTINGS}
    # JAX decides at the first compilation of a process whether there is a cache; here that was another test's.
    compilation_cache.reset_cache()

    def run(*arguments):
        done = CliRunner().invoke(app, ["compare", "parity", *map(str, arguments)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        path = Path("compared/parity.json")
        return done, json.loads(path.read_text()) if path.exists() else None

    yield run
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def variables_of(spec, seed=0):
    """Weights as training might leave them, no variance negative and no estimate clipped throughout."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        name = path.split("/")[-1]
        if name == "kernel":
            gain = 0.25 if path.split("/")[-2].startswith("output") else 1.0
            return gain * rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        if name == "filter":
            return low_pass(spec.config.stride) * rng.uniform(0.9, 1.1, shape)
        return rng.uniform(*{"var": (0.5, 2.0), "scale": (0.7, 1.3)}.get(name, (-0.1, 0.1)), shape)

    return unflatten({path: draw(path, shape).astype(np.float32) for path, shape in expected_shapes(spec).items()})


def write(path, waveform, rate, subtype="FLOAT"):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, subtype=subtype)
    return path
