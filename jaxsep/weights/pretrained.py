"""The catalogue of published models, and where their files are.

Imports neither jax nor flax until weights are loaded.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsep.environment import cache_directory
from jaxsep.errors import CheckpointError, nearest

if TYPE_CHECKING:
    from jaxsep.weights.checkpoint import Checkpoint

_BUNDLED = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Score:
    """A number that the authors of a model published for it.

    Attributes:
        stem: Of which stem.
        sdr_db: Signal-to-distortion ratio: median over tracks of the medians over one-second frames (BSS Eval v4).
        method: How stems were made from the network's output.
        dataset: On which tracks.
        source: Where it was published.
    """

    stem: str
    sdr_db: float
    method: str
    dataset: str
    source: str


@dataclass(frozen=True)
class CatalogueEntry:
    """A published model.

    Attributes:
        name: What `Separator.from_pretrained` and the command line call it.
        family: A key of `jaxsep.models.FAMILIES`.
        stems: In the order of its output.
        sample_rate: In Hz.
        bandwidth_hz: Up to where it estimates.
        size_bytes: Of its file.
        dtype: What its file holds numbers in.
        licence: Of the weights.
        sha256: Of the arrays, as `load_checkpoint` verifies and reports it.
        spec_sha256: Of the spec in a bundled file, which is known to fit the arrays.
        source: Where its authors published it.
        converted_from: The `--family` of `jaxsep convert` that makes the file from the source.
        scores: What its authors published for this very model.
        bundled: Whether its file comes with jaxsep.
    """

    name: str
    family: str
    stems: tuple[str, ...]
    sample_rate: int
    bandwidth_hz: float
    size_bytes: int
    dtype: str
    licence: str
    sha256: str
    source: str
    converted_from: str
    scores: tuple[Score, ...] = ()
    bundled: bool = False
    spec_sha256: str | None = None


_SPLEETER_2STEMS = "https://github.com/deezer/spleeter/releases/download/v1.4.0/2stems.tar.gz"

# No scores: the table in Spleeter's paper (Hennequin et al. 2020) is that of the four-stem model, its vocals included.
_CATALOGUE = (
    CatalogueEntry(
        name="spleeter-2stems",
        family="unet",
        stems=("vocals", "accompaniment"),
        sample_rate=44100,
        bandwidth_hz=11025.0,
        size_bytes=39_314_372,
        dtype="float16",
        licence="MIT",
        sha256="a1d5ac54f6e4c35c5599964f3f1e7c6fd4424e89c3ed091b3ab651cc48020cec",
        source=_SPLEETER_2STEMS,
        converted_from="spleeter",
        bundled=True,
        spec_sha256="e1d1215d2ac2e2b847a32b429c9714f3da0e9d82cf591cef945b3ccd30db580a",
    ),
    CatalogueEntry(
        name="spleeter-2stems-fp32",
        family="unet",
        stems=("vocals", "accompaniment"),
        sample_rate=44100,
        bandwidth_hz=11025.0,
        size_bytes=78_613_288,
        dtype="float32",
        licence="MIT",
        sha256="3a97fb1f6bf6156d225c6c9e0d87620157763c20edb4888afe488f6699d594c6",
        source=_SPLEETER_2STEMS,
        converted_from="spleeter",
    ),
)


def list_models() -> tuple[CatalogueEntry, ...]:
    """Returns the models of the catalogue."""
    return _CATALOGUE


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """Returns the file or folder of a model.

    Args:
        name_or_path: A name of the catalogue, the name of a file in the cache's `models` folder, or a path.

    Raises:
        CheckpointError: There is no such model, or its file is not on this machine; the message says how to get it.
    """
    if isinstance(name_or_path, str) and not _looks_like_path(name_or_path):
        path = _find(name_or_path)
        if path is not None:
            return path
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    if isinstance(name_or_path, str) and not _looks_like_path(name_or_path):
        known = [entry.name for entry in _CATALOGUE] + [file.stem for file in _cached_models()]
        raise CheckpointError(f"There is no model or file called '{name_or_path}'.{nearest(name_or_path, known)}")
    raise CheckpointError(f"There is no checkpoint at {path}; give the path of one, or the name of a model.")


def is_present(name: str) -> bool:
    """Whether the file of a model, by its name, is on this machine."""
    return any(place.is_file() for place in _places(name))


def load_pretrained(name_or_path: str | os.PathLike[str]) -> "Checkpoint":
    """Loads a model by its name or from a path.

    Args:
        name_or_path: See `resolve`.

    Raises:
        CheckpointError: It is not there, damaged, or not what the catalogue says.
    """
    from jaxsep.weights.checkpoint import load_checkpoint

    path = resolve(name_or_path)
    known = [(entry.spec_sha256, entry.sha256) for entry in _CATALOGUE if entry.spec_sha256 is not None]
    checkpoint = load_checkpoint(path, known=known)
    entry = _entry(name_or_path) if isinstance(name_or_path, str) else None
    if entry is not None and path in _places(entry.name) and checkpoint.sha256 != entry.sha256:
        raise CheckpointError(
            f"{path} holds other weights than those published as '{entry.name}' (sha256 {checkpoint.sha256}, expected "
            f"{entry.sha256}); {_recipe(entry)}"
        )
    return checkpoint


def _looks_like_path(name: str) -> bool:
    return "/" in name or os.sep in name or name.endswith(".safetensors")


def _entry(name: str) -> CatalogueEntry | None:
    return next((entry for entry in _CATALOGUE if entry.name == name), None)


def _places(name: str) -> list[Path]:
    file = f"{name}.safetensors"
    return [_BUNDLED / file, cache_directory() / "models" / file]


def _find(name: str) -> Path | None:
    """Returns the file of a model by its name, None where nothing is known of it."""
    path = next((place for place in _places(name) if place.is_file()), None)
    entry = _entry(name)
    if path is None and entry is not None:
        raise CheckpointError(f"The weights of '{name}' are not on this machine; {_recipe(entry)}")
    return path


def _cached_models() -> list[Path]:
    return sorted((cache_directory() / "models").glob("*.safetensors"))


def _recipe(entry: CatalogueEntry) -> str:
    place = _places(entry.name)[1]
    return (
        f"unpack {entry.source} into a folder, then run `jaxsep convert FOLDER --family {entry.converted_from} "
        f"--name {entry.name} --dtype {entry.dtype} --output {shlex.quote(str(place))}`."
    )
