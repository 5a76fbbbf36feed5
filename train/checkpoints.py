"""Checkpoints of a run: the whole state, written by Orbax while the run goes on, and restored only if it is intact.

What they look like on disk, and how they are read, is in `jaxsep/weights/runs.py`, since `jaxsep separate` reads them.
Orbax's own manager of checkpoints is not used: it does not open a folder in which one of them is damaged.
"""

import logging
import os
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxsep.errors import CheckpointError
from jaxsep.training.state import TrainState
from jaxsep.weights import runs
from jaxsep.weights.tree import flatten, unflatten
from train.config import CheckpointsConfig
from train.parallel import gather, waiting_together

logger = logging.getLogger(__name__)

_UNFINISHED = ".unfinished."


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
        state: On the host.
        record: What was saved beside it.
    """

    state: TrainState
    record: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run. On several hosts, every process makes the same calls, and process 0 writes.

    A state is copied before `save` returns, and written and hashed behind the run's back under a temporary name; it
    appears under its own when it is complete and on the disk.
    """

    def __init__(self, workdir: Path, config: CheckpointsConfig) -> None:
        """Opens the folder, and clears away what a run that was killed left unfinished."""
        self._config = config
        self._folder = (workdir / runs.CHECKPOINTS).absolute()
        self._writes = jax.process_index() == 0
        if self._writes:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in self._folder.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(left)
        gather(np.asarray(0))  # the others wait until it is there
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What is being written is completed, whatever ended the run.
        self._thread.shutdown()
        if kind is None:
            self.wait()

    @property
    def steps(self) -> list[int]:
        """The steps that are saved, in order."""
        return sorted(int(folder.name) for folder in self._folder.iterdir() if folder.name.isdecimal())

    def save(self, state: TrainState, record: Mapping[str, Any], *, score: float | None) -> None:
        """Starts to save a state, once the one before is written.

        Args:
            state: Replicated or on the host; the caller may give its buffers away afterwards.
            record: JSON that is kept beside it: spec, config, and what else is to go on as it was.
            score: Of its validation; None where there was none.

        Raises:
            CheckpointError: The one before could not be written.
        """
        self.wait()
        # Copies: on a CPU, a host view of an array shares its memory, which the next step overwrites.
        arrays = {path: np.array(leaf) for path, leaf in _by_path(state).items()}
        step = int(arrays["step"])
        temporary = self._folder / f"{_UNFINISHED}{step}"
        try:
            if self._writes:
                self._check_space(arrays)
                temporary.mkdir()
            # Called here and not in the thread: Orbax first has all processes agree, by way of the devices.
            with waiting_together(f"the checkpoint of step {step}"):
                written = ocp.save_async(temporary / runs.STATE, unflatten(arrays))
        except jax.errors.JaxRuntimeError:  # another process is gone
            raise
        except Exception as error:  # Orbax and TensorStore have no common class
            raise self._not_written(step, error) from None
        self._pending = self._thread.submit(
            self._complete, step, temporary, written, arrays, {**record, "score": score}
        )

    def wait(self) -> None:
        """Waits until what is being saved is written.

        Raises:
            CheckpointError: It could not be.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            with waiting_together("the last checkpoint"):
                pending.result()

    def restore(self, like: TrainState) -> Restored | None:
        """Reads the newest checkpoint that is intact.

        Those that are not are put aside, so that the run can save under their steps again.

        Args:
            like: A state of the same structure, or its shapes.

        Returns:
            What it held; None where nothing was saved yet.

        Raises:
            CheckpointError: Something was saved, and none of it is intact, or of this state's structure.
        """
        damaged = []
        for step in reversed(self.steps):
            folder = self._folder / str(step)
            try:
                record, found = runs.read_record(folder), runs.read_state(folder)
            except CheckpointError as error:
                logger.warning("%s Going back to the checkpoint before.", error)
                damaged.append(folder)
                continue
            if len(set(gather(np.asarray(step)).tolist())) > 1:
                raise CheckpointError(f"The processes of this run do not see the same checkpoints in {self._folder}.")
            restored = Restored(_state_of(found, like, folder), record)
            if self._writes:
                self._put_aside(damaged)
            return restored
        if damaged:
            raise CheckpointError(f"No checkpoint in {self._folder} is intact; begin anew in another workdir.")
        return None

    def _complete(
        self, step: int, temporary: Path, written: Any, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
    ) -> None:
        """Waits for Orbax, adds the record, and gives the checkpoint its name."""
        try:
            written.result()
            if not self._writes:
                return
            with (temporary / runs.RECORD).open("w", encoding="utf-8") as file:
                file.write(runs.encode_record({**record, **runs.describe_state(temporary / runs.STATE, arrays)}))
                file.flush()
                os.fsync(file.fileno())
            target = self._folder / str(step)
            # The last step of a run that is over may come again: with other validation, say.
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
            self._delete_old()
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:
            raise self._not_written(step, error) from None

    def _check_space(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Refuses what will not fit: Orbax would too, but leaves threads behind that complain one after another."""
        needed, free = sum(array.nbytes for array in arrays.values()), shutil.disk_usage(self._folder).free
        if needed > free:
            raise OSError(f"it takes {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free on the disk")

    def _not_written(self, step: int, error: Exception) -> CheckpointError:
        if self._writes:
            shutil.rmtree(self._folder / f"{_UNFINISHED}{step}", ignore_errors=True)
        return CheckpointError(
            f"The checkpoint of step {step} cannot be written: {_reason(error)}; "
            + (f"the last one is of step {self.steps[-1]}" if self.steps else "there is none before it")
            + ", and the same command goes on from there."
        )

    def _delete_old(self) -> None:
        """Keeps the latest and the best."""
        scores: dict[int, float | None] = {}
        for step in self.steps:
            folder = self._folder / str(step)
            try:
                scores[step] = runs.read_record(folder).get("score")
            except CheckpointError as error:
                logger.warning("%s It is put aside.", error)
                self._put_aside([folder])
        best = sorted((score, step) for step, score in scores.items() if score is not None)
        kept = {*sorted(scores)[-self._config.keep_latest :], *(step for _, step in best[-self._config.keep_best :])}
        for step in scores.keys() - kept:
            # Renamed first, so that no half of it has its name.
            doomed = (self._folder / str(step)).rename(self._folder / f"{_UNFINISHED}{step}")
            shutil.rmtree(doomed, ignore_errors=True)

    def _put_aside(self, folders: list[Path]) -> None:
        if folders:
            aside = self._folder.with_name("damaged")
            aside.mkdir(exist_ok=True)
            for folder in folders:
                number = sum(1 for each in aside.iterdir() if each.name.startswith(f"{folder.name}."))
                folder.rename(aside / f"{folder.name}.{number}")


def silence_failed_writes() -> None:
    """Keeps this process from printing tracebacks when a checkpoint cannot be written, which is raised in a sentence.

    Orbax and Grain log what they raise too, by absl. And each of TensorStore's threads that ends after a write that
    failed finds Orbax's event loop closed, which nobody can catch.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    before = sys.unraisablehook

    def hook(met: Any) -> None:
        if met.exc_type is not RuntimeError or str(met.exc_value) != "Event loop is closed":
            before(met)

    sys.unraisablehook = hook


def _reason(error: Exception) -> str:
    """Returns the cause that TensorStore names last, before it repeats its whole specification."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    cause = " ".join(str(error).split()).split(" [tensorstore_spec")[0].rsplit(": ", 1)[-1].removesuffix(".")
    return cause[:200] or type(error).__name__


def _by_path(state: TrainState) -> dict[str, Any]:
    """Returns the leaves of a state by their paths, part first: 'params/...', 'opt_state/0/mu/...'."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _state_of(found: Mapping[str, Any], like: TrainState, folder: Path) -> TrainState:
    """Returns a state of the structure of `like` with the arrays of a checkpoint.

    Raises:
        CheckpointError: They do not fit.
    """
    expected, given = _by_path(like), flatten(found)
    if {path: leaf.shape for path, leaf in expected.items()} != {path: leaf.shape for path, leaf in given.items()}:
        raise CheckpointError(
            f"{folder} holds a state of another structure (model, optimizer or average of parameters); "
            "go on with the config of the run, or begin anew in another workdir."
        )
    return jax.tree.unflatten(jax.tree.structure(like), [given[path] for path in expected])
