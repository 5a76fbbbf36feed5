"""Models and ensembles by name or path, ready to separate."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, Unpack

from jaxsep.separation.ensemble import Ensemble, EnsembleSeparator
from jaxsep.separation.options import SeparatorOptions
from jaxsep.separation.separator import Model, Separator
from jaxsep.weights.checkpoint import Checkpoint
from jaxsep.weights.pretrained import load_one, load_pretrained

AnySeparator: TypeAlias = Separator | EnsembleSeparator


def load_model(name_or_path: str | Path, *, stems: Sequence[str] | None = None) -> Model | Ensemble:
    """Loads a model or an ensemble by its name in the catalogue, or from a checkpoint of jaxsep's.

    Args:
        name_or_path: A name such as 'spleeter-2stems', a .safetensors file or an Orbax directory.
        stems: Names of the stems that are wanted; members of an ensemble that have no weight for any of them are not
            read. None for all.

    Raises:
        CheckpointError: If there is no such model, or its file is damaged or does not match its description.
    """
    loaded = load_pretrained(name_or_path, stems=stems)
    if isinstance(loaded, Checkpoint):
        return _as_model(loaded)
    members = {number: _as_model(member) for number, member in loaded.members.items()}
    return Ensemble(members, loaded.spec, loaded.sha256)


def load_one_model(name_or_path: str | Path, *, member: int | None = None) -> Model:
    """Loads one model, of an ensemble one of its members; arguments as for `jaxsep.weights.pretrained.load_one`."""
    return _as_model(load_one(name_or_path, member=member))


def load_separator(name_or_path: str | Path, **options: Unpack[SeparatorOptions]) -> AnySeparator:
    """Loads a model or an ensemble and makes a Separator of it; arguments as for `Separator.from_pretrained`."""
    return make_separator(load_model(name_or_path, stems=options.get("stems")), **options)


def make_separator(model: Model | Ensemble, **options: Unpack[SeparatorOptions]) -> AnySeparator:
    """Makes a Separator of a model, or of an ensemble."""
    return Separator(model, **options) if isinstance(model, Model) else EnsembleSeparator(model, **options)


def _as_model(checkpoint: Checkpoint) -> Model:
    return Model(checkpoint.spec.network(), checkpoint.variables, checkpoint.spec, checkpoint.sha256)
