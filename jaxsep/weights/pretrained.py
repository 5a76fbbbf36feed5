"""Models by name or path: where their files are on this machine, and their weights, verified.

What is published is in `catalogue.py`, and how it comes onto this machine in `pull.py`. Imports neither jax nor flax
until weights are loaded.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsep.environment import cache_directory
from jaxsep.errors import CheckpointError, nearest
from jaxsep.weights import runs
from jaxsep.weights.catalogue import find_entry
from jaxsep.weights.catalogue import list_models as list_models
from jaxsep.weights.pull import find_file, places, pull

if TYPE_CHECKING:
    from jaxsep.weights.checkpoint import Checkpoint


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """Returns the file or folder of a model, pulling it where its name is in the catalogue and its file is not here.

    Args:
        name_or_path: A name of the catalogue, the name of a file in the cache's `models` folder, or a path. The path of
            a training run stands for its best checkpoint.

    Raises:
        CheckpointError: There is no such model, or its file cannot be had; the message says what to do.
    """
    named = isinstance(name_or_path, str) and not _looks_like_path(name_or_path)
    if named and (found := find_file(str(name_or_path))) is not None:
        return found
    if named and find_entry(str(name_or_path)) is not None:
        return pull(str(name_or_path))
    path = Path(name_or_path).expanduser()
    if path.exists():
        return runs.choose_checkpoint(path) if runs.is_run(path) else path
    if named:
        known = [entry.name for entry in list_models()] + [file.stem for file in _cached_models()]
        raise CheckpointError(f"There is no model or file called '{name_or_path}'.{nearest(str(name_or_path), known)}")
    raise CheckpointError(f"There is no checkpoint at {path}; give the path of one, or the name of a model.")


def is_present(name: str) -> bool:
    """Whether the file of a model, by its name, is on this machine."""
    return find_file(name) is not None


def load_pretrained(name_or_path: str | os.PathLike[str]) -> "Checkpoint":
    """Loads a model by its name or from a path.

    Args:
        name_or_path: See `resolve`.

    Raises:
        CheckpointError: It is not there and cannot be had, is damaged, or not what the catalogue says.
    """
    from jaxsep.weights.checkpoint import load_checkpoint

    path = resolve(name_or_path)
    known = [
        (entry.spec_sha256, entry.sha256)
        for entry in list_models()
        if entry.spec_sha256 is not None and entry.sha256 is not None
    ]
    checkpoint = load_checkpoint(path, known=known)
    entry = find_entry(name_or_path) if isinstance(name_or_path, str) else None
    if entry is not None and path in places(entry.name) and entry.sha256 not in (None, checkpoint.sha256):
        raise CheckpointError(
            f"{path} holds other weights than those published as '{entry.name}' (sha256 {checkpoint.sha256}, expected "
            f"{entry.sha256}); run `jaxsep models pull {entry.name} --force`."
        )
    return checkpoint


def _looks_like_path(name: str) -> bool:
    return "/" in name or os.sep in name or name.endswith(".safetensors")


def _cached_models() -> list[Path]:
    return sorted((cache_directory() / "models").glob("*.safetensors"))
