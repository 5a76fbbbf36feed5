"""What a model is compared with, by what the command line calls it. How, is in parity.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from jaxsep.compare.demucs_command import DEMUCS, DemucsCommand
from jaxsep.compare.excerpts import Excerpt, made_up_excerpt, read_excerpts
from jaxsep.compare.networks import NETWORKS, JaxNetwork, Network
from jaxsep.compare.other_stems import EnsembleStems, OtherStems, SpleeterCommand, StemsFolder
from jaxsep.compare.twins import check_twin
from jaxsep.environment import expand_home
from jaxsep.errors import ConfigError, nearest
from jaxsep.evaluation.tracks import TrueTrack, audio_files
from jaxsep.models.ensemble import AnySpec, EnsembleSpec
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.ensemble import Ensemble
from jaxsep.separation.models import load_model
from jaxsep.separation.separator import Model
from jaxsep.typing import Variables
from jaxsep.weights.catalogue import find_entry
from jaxsep.weights.checkpoint import is_checkpoint
from jaxsep.weights.rules import rules_of
from jaxsep.weights.tensorflow_bundle import is_tensorflow_bundle
from jaxsep.weights.tree import expected_shapes

SPLEETER = "spleeter"
# Of the mixture that is made up where no inputs are given.
_MADE_UP_SECONDS = 12.0
# Below a mixture at -20 dB of full scale, this is what rounding to 16 bits adds.
_NETWORK_DB = -80.0
# Files of 16 bits: the same rounding, some more for what other transforms add. Of weights that are stored in float16
# the rounding is this far below the mixture: the parity tests hold it to -55 dB on real music, and other music may be
# harder.
_FILES_DB, _FLOAT16_FILES_DB = -70.0, -50.0


def check_side(name: str) -> None:
    """Refuses what names no side.

    Raises:
        ConfigError: It is none of the names, no model, and no path.
    """
    known = (*NETWORKS, SPLEETER, DEMUCS)
    if name not in known and find_entry(name) is None and not _path_of(name).exists() and not _is_bundle(name):
        raise ConfigError(
            f"--with '{name}' is neither {', '.join(known)} nor a path to weights or stems.{nearest(name, known)}"
        )


def find_side(
    name: str,
    model: Model | Ensemble,
    tracks: Sequence[TrueTrack],
    *,
    spleeter_command: str,
    command: str | None,
    device: jax.Device,
) -> Network | OtherStems:
    """Returns what a model is compared with.

    Args:
        name: 'torch' or 'tensorflow' for a twin, 'spleeter' or 'demucs' for their commands, a model's name, or a path:
            a checkpoint, foreign weights, or a folder of stems.
        model: Ours.
        tracks: What will be separated; empty for the made-up mixture.
        spleeter_command: Name or path of Spleeter's command.
        command: Name or path of another command; None for what is found.
        device: Where networks of ours run.

    Raises:
        ConfigError: There is no such side for this model.
        CheckpointError: Weights cannot be read, or are of another family.
    """
    spec = model.spec
    if name == DEMUCS:
        return DemucsCommand(model, command)
    if isinstance(model, Ensemble) or isinstance(spec, EnsembleSpec):
        if name in NETWORKS or name == SPLEETER:
            raise ConfigError(
                f"'{spec.name}' is an ensemble, which no '{name}' has; compare its members one by one, or its stems "
                "with a folder or a checkpoint."
            )
        return _files_or_checkpoint(name, spec, tracks, device)
    if name in NETWORKS:
        check_twin(spec, name)
        return NETWORKS[name](spec, model.variables)
    if name == SPLEETER:
        return SpleeterCommand(spec, spleeter_command)
    return _files_or_checkpoint(name, spec, tracks, device)


def _files_or_checkpoint(
    name: str, spec: AnySpec, tracks: Sequence[TrueTrack], device: jax.Device
) -> Network | OtherStems:
    path = _path_of(name)
    if path.is_dir() and not is_checkpoint(path) and _holds_audio(path):
        return StemsFolder(spec, path, [track.name for track in tracks])
    other: JaxNetwork | EnsembleStems
    if (path.exists() and is_checkpoint(path)) or (not path.exists() and find_entry(name) is not None):
        loaded = load_model(name)
        if isinstance(loaded, Ensemble):
            other = EnsembleStems(loaded, device)
        else:
            other = JaxNetwork(loaded.spec, loaded.variables, device)
    elif isinstance(spec, EnsembleSpec):
        raise ConfigError(f"'{name}' holds neither stems nor a checkpoint, with which an ensemble can be compared.")
    else:
        other = JaxNetwork(*_foreign(path, spec), device)
    other.description = f"{name} in {other.description}"
    return other


def find_excerpts(
    tracks: Sequence[TrueTrack], spec: AnySpec, *, offset_seconds: float, seconds: float
) -> Iterator[Excerpt]:
    """Returns the excerpts of tracks, or the made-up one where there are none; arguments as for `read_excerpts`."""
    if tracks:
        return read_excerpts(tracks, spec.stems, offset_seconds=offset_seconds, seconds=seconds)
    return iter([made_up_excerpt(spec, seconds or _MADE_UP_SECONDS)])


def default_threshold_db(ours: JaxNetwork | EnsembleStems, side: Network | OtherStems) -> float:
    """Returns how far stems may be apart where nothing else is said, in dB of the mixture.

    Args:
        ours: The model.
        side: What it is compared with.
    """
    if not isinstance(side, OtherStems):
        return _NETWORK_DB
    return _FLOAT16_FILES_DB if isinstance(ours, JaxNetwork) and ours.is_float16() else _FILES_DB


def _foreign(path: Path, spec: ModelSpec) -> tuple[ModelSpec, Variables]:
    """Reads weights of another program's as `jaxsep convert` does, without writing a checkpoint.

    Arrays say nothing of chunks, rates and transforms: those are ours where the arrays fit our model.
    """
    weights = rules_of(spec.family).read(path, spec.name)
    if len(weights.models) > 1:
        raise ConfigError(f"'{path}' holds an ensemble; convert it, and compare with the checkpoint.")
    found, variables = weights.models[0].spec, weights.models[0].variables()
    is_ours = found.stems == spec.stems and expected_shapes(found) == expected_shapes(spec)
    return (spec if is_ours else found), variables


def _holds_audio(folder: Path) -> bool:
    places = [folder, *(each for each in sorted(folder.iterdir()) if each.is_dir())]
    places += [inner for place in places[1:] for inner in sorted(place.iterdir()) if inner.is_dir()]
    return any(audio_files(place) for place in places)


def _is_bundle(name: str) -> bool:
    path = _path_of(name)
    return path.parent.is_dir() and is_tensorflow_bundle(path)


def _path_of(name: str) -> Path:
    return expand_home(name)
