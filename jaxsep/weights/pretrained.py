"""Models by name or path: where their files are on this machine, and their weights, verified.

What is published is in `catalogue.py`, and how it comes onto this machine in `pull.py`. Imports neither jax nor flax
until weights are loaded.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsep.environment import cache_directory, expand_home
from jaxsep.errors import CheckpointError, nearest
from jaxsep.weights import runs
from jaxsep.weights.catalogue import find_entry
from jaxsep.weights.catalogue import list_models as list_models
from jaxsep.weights.hub import SCHEME
from jaxsep.weights.pull import find_file, places, pull

if TYPE_CHECKING:
    from jaxsep.models.spec import ModelSpec
    from jaxsep.weights.checkpoint import Checkpoint
    from jaxsep.weights.ensembles import EnsembleCheckpoint


# Ends of the names of files that other programs keep weights in.
_FOREIGN = (".th", ".pth", ".pt", ".ckpt", ".yaml", ".yml")


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """Returns the file or folder of a model, pulling it where its name is in the catalogue and its file is not here.

    Args:
        name_or_path: A name of the catalogue, 'hf://owner/name' for a model of the Hugging Face hub, the name of a file
            in the cache's `models` folder, or a path. The path of a training run stands for its best checkpoint.

    Raises:
        CheckpointError: There is no such model, or its file cannot be had; the message says what to do.
    """
    named = isinstance(name_or_path, str) and not _looks_like_path(name_or_path)
    if isinstance(name_or_path, str) and name_or_path.startswith(SCHEME):
        return find_file(name_or_path) or pull(name_or_path)
    if named and (found := find_file(str(name_or_path))) is not None:
        return found
    if named and find_entry(str(name_or_path)) is not None:
        return pull(str(name_or_path))
    path = expand_home(name_or_path)
    if path.suffix in _FOREIGN and os.path.isfile(path):
        raise CheckpointError(
            f"{path} is no checkpoint of jaxsep's; make one of it by `jaxsep convert {path} --family FORMAT -o OUT`."
        )
    if os.path.exists(path):  # False for what is no name, too
        return runs.choose_checkpoint(path) if runs.is_run(path) else path
    if named:
        known = [entry.name for entry in list_models()] + [file.stem for file in _cached_models()]
        raise CheckpointError(f"There is no model or file called '{name_or_path}'.{nearest(str(name_or_path), known)}")
    raise CheckpointError(f"There is no checkpoint at {path}; give the path of one, or the name of a model.")


def is_present(name: str) -> bool:
    """Whether the file of a model, by its name, is on this machine."""
    return find_file(name) is not None


def load_pretrained(
    name_or_path: str | os.PathLike[str], *, stems: Sequence[str] | None = None
) -> "Checkpoint | EnsembleCheckpoint":
    """Loads a model or an ensemble by its name or from a path.

    Args:
        name_or_path: See `resolve`.
        stems: Names of the stems that are wanted; members of an ensemble that have no weight for any of them are not
            read. None for all.

    Raises:
        CheckpointError: It is not there and cannot be had, is damaged, or not what the catalogue says.
    """
    from jaxsep.models.ensemble import EnsembleSpec
    from jaxsep.weights.checkpoint import load_checkpoint, read_spec
    from jaxsep.weights.ensembles import load_ensemble

    path = resolve(name_or_path)
    spec = read_spec(path)
    if isinstance(spec, EnsembleSpec):
        return load_ensemble(path, spec.needed(stems))
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


def load_one(name_or_path: str | os.PathLike[str], *, member: int | None = None) -> "Checkpoint":
    """Loads one model by its name or from a path, of an ensemble one of its members; as for `read_one_spec`.

    Raises:
        CheckpointError: As for `read_one_spec`, or it cannot be loaded.
    """
    from jaxsep.weights.checkpoint import load_checkpoint
    from jaxsep.weights.ensembles import load_ensemble

    path = resolve(name_or_path)
    read_one_spec(path, member=member)
    return load_checkpoint(path) if member is None else load_ensemble(path, [member]).members[member]


def read_one_spec(name_or_path: str | os.PathLike[str], *, member: int | None = None) -> "ModelSpec":
    """Reads the description of one model, of an ensemble that of one of its members, and no weights.

    Args:
        name_or_path: See `resolve`.
        member: Number of the member of an ensemble, from 0; None for what is no ensemble.

    Raises:
        CheckpointError: It cannot be read, it is an ensemble and no member is named, or there is no such member.
    """
    from jaxsep.models.spec import ModelSpec
    from jaxsep.weights.checkpoint import read_spec

    spec = read_spec(resolve(name_or_path))
    if isinstance(spec, ModelSpec):
        if member is not None:
            raise CheckpointError(f"'{name_or_path}' is one model and no ensemble; leave the member out.")
        return spec
    if member is None:
        raise CheckpointError(
            f"'{name_or_path}' is an ensemble of {len(spec.members)} models, and one model is asked for; name one of "
            f"its members, 0 to {len(spec.members) - 1}."
        )
    if not 0 <= member < len(spec.members):
        raise CheckpointError(f"'{name_or_path}' has the members 0 to {len(spec.members) - 1}, and none {member}.")
    return spec.members[member]


def _looks_like_path(name: str) -> bool:
    return "/" in name or os.sep in name or name.endswith(".safetensors")


def _cached_models() -> list[Path]:
    cache = cache_directory()
    return [] if cache is None else sorted((cache / "models").glob("*.safetensors"))
