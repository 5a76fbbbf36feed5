"""What a training run leaves behind, read as weights: the best of its checkpoints, or any. Writing is train/'s.

A run is a folder with `checkpoints/STEP/`, each the whole state as Orbax writes it and a record beside it: the model's
spec, the config, the score, and the sha256 of every file, since Orbax loads a flipped bit without a word, or fails
noisily. Imports neither jax nor numpy nor Orbax until a state is read.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxsep.errors import CheckpointError

if TYPE_CHECKING:
    from jaxsep.typing import Variables

CHECKPOINTS = "checkpoints"
# What is in a checkpoint, and the record's mark.
STATE, RECORD, FORMAT = "state", "record.json", "jaxsep-run-1"
# The part of the state that is evaluated and released, where there is one; else 'params'.
AVERAGED = "ema_params"
BEST, LATEST = "best", "latest"


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether there is a training run's folder at `path`."""
    return (Path(path) / CHECKPOINTS).is_dir()


def is_saved_state(path: str | os.PathLike[str]) -> bool:
    """Whether there is one checkpoint of a training run at `path`."""
    return (Path(path) / RECORD).is_file()


def saved_steps(run: str | os.PathLike[str]) -> dict[int, float | None]:
    """Returns the steps at which a run was saved, in order, with the validation scores that they have.

    Raises:
        CheckpointError: There is none yet, or one is damaged.
    """
    scores = {step: read_record(_folder(run, step)).get("score") for step in _steps(run)}
    if not scores:
        raise CheckpointError(f"{run} holds no checkpoint yet; train until one is saved.")
    return scores


def choose_checkpoint(run: str | os.PathLike[str], which: str = BEST) -> Path:
    """Returns the folder of a run's best checkpoint, latest or numbered one.

    Args:
        run: The folder.
        which: 'best' by validation, where nothing was validated the latest; 'latest'; or a step.

    Raises:
        CheckpointError: There is no such checkpoint, or which one is the best cannot be told, since one is damaged.
    """
    steps = _steps(run)
    if not steps:
        raise CheckpointError(f"{run} holds no checkpoint yet; train until one is saved.")
    if which == LATEST:
        return _folder(run, steps[-1])
    if which == BEST:
        with naming_intact(_folder(run, steps[-1])):
            scores = saved_steps(run)
        return _folder(run, max(scores, key=lambda step: (_or_least(scores[step]), step)))
    if which.isdecimal() and int(which) in steps:
        return _folder(run, int(which))
    raise CheckpointError(
        f"{run} has no checkpoint '{which}'; there are {BEST}, {LATEST} and {', '.join(map(str, steps))}."
    )


@contextmanager
def naming_intact(checkpoint: Path) -> Iterator[None]:
    """Has an error while a run's checkpoint is read name the newest one of the run that is intact.

    Args:
        checkpoint: The folder of the step.
    """
    try:
        yield
    except CheckpointError as error:
        if checkpoint.parent.name != CHECKPOINTS:
            raise
        run = checkpoint.parent.parent
        intact = next((step for step in reversed(_steps(run)) if _is_intact(_folder(run, step))), None)
        if intact is None:
            hint = "no checkpoint of the run is intact"
        else:
            hint = f"the newest intact checkpoint of the run is {_folder(run, intact)}: name that one"
        raise CheckpointError(f"{str(error).removesuffix('.')}; {hint}.") from None


def read_record(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what is written beside the state of one checkpoint.

    Raises:
        CheckpointError: It is no checkpoint of a run, or cannot be read.
    """
    path = Path(checkpoint) / RECORD
    try:
        text, _, digest = path.read_text(encoding="utf-8").rpartition("\n")
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise ValueError(f"{RECORD} does not match its sha256")
        record = json.loads(text)
    except OSError as error:
        raise CheckpointError(f"{checkpoint} is no checkpoint of a training run: {error.strerror}.") from None
    except ValueError as error:
        raise CheckpointError(f"{checkpoint} is damaged: {error}.") from None
    if record["format"] != FORMAT:
        raise CheckpointError(f"{checkpoint} is of the format '{record['format']}'; install a newer jaxsep.")
    return record


def describe_state(folder: Path, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the record says of a state: the sha256 of every file, type and shape of every array.

    Args:
        folder: Where Orbax wrote it.
        arrays: By path: 'params/...'.
    """
    return {
        "sha256": _hash_files(folder),
        "arrays": {path: [array.dtype.name, list(array.shape)] for path, array in arrays.items()},
    }


def encode_record(record: Mapping[str, Any]) -> str:
    """Returns the text of a record: JSON, and the sha256 of it in the last line."""
    text = json.dumps({"format": FORMAT, **record}, indent=1)
    return f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}"


def read_state(checkpoint: str | os.PathLike[str], parts: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Reads parts of the state of one checkpoint, verified.

    Args:
        checkpoint: The folder of the step.
        parts: Such as 'params'; None for all.

    Returns:
        A tree of host arrays by part.

    Raises:
        CheckpointError: It cannot be read, or does not match its sha256.
    """
    import numpy as np
    from orbax.checkpoint import v1 as ocp

    from jaxsep.weights.tree import unflatten

    record = read_record(checkpoint)
    folder = (Path(checkpoint) / STATE).absolute()
    try:
        is_intact = _hash_files(folder) == record["sha256"]
    except OSError as error:
        raise CheckpointError(f"{checkpoint} cannot be read: {error.strerror or error}.") from None
    if not is_intact:
        raise CheckpointError(f"{checkpoint} is damaged: its files do not match their sha256.")
    # A view of one zero says what is wanted and takes no memory.
    wanted = {
        path: np.broadcast_to(np.zeros((), dtype), shape)
        for path, (dtype, shape) in record["arrays"].items()
        if parts is None or path.split("/")[0] in parts
    }
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        return ocp.load(folder, unflatten(wanted))


def read_variables(checkpoint: str | os.PathLike[str]) -> "Variables":
    """Reads what is evaluated and released of one checkpoint: averaged parameters where there are some, statistics.

    Raises:
        CheckpointError: It cannot be read, or does not match its sha256.
    """
    held = {path.split("/")[0] for path in read_record(checkpoint)["arrays"]}
    averaged = AVERAGED if AVERAGED in held else "params"
    state = read_state(checkpoint, (averaged, "batch_stats"))
    return {"params": state[averaged], **({"batch_stats": state["batch_stats"]} if "batch_stats" in state else {})}


def _hash_files(folder: Path) -> dict[str, str]:
    """Returns the sha256 of every file below a folder, by its path there."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _is_intact(checkpoint: Path) -> bool:
    try:
        return bool(_hash_files(checkpoint / STATE) == read_record(checkpoint)["sha256"])
    except (CheckpointError, OSError):
        return False


def _steps(run: str | os.PathLike[str]) -> list[int]:
    """Returns the steps at which a run was saved, in order, intact or not."""
    return sorted(int(each.name) for each in (Path(run) / CHECKPOINTS).iterdir() if each.name.isdecimal())


def _folder(run: str | os.PathLike[str], step: int) -> Path:
    return Path(run) / CHECKPOINTS / str(step)


def _or_least(score: float | None) -> float:
    return float("-inf") if score is None else score
