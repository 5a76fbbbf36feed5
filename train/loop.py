"""The loop: restore the latest, then step, write, evaluate, save. What each of these does is in a file of its own."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsep.errors import JaxsepError
from train.checkpoints import Checkpoints
from train.config import RunConfig
from train.input_pipeline import Pipeline
from train.parallel import check_batch_size, on_any_process, replicate, replicate_step, shard, waiting_together
from train.program import build_program, initial_state, initial_variables
from train.tracks import Tracks
from train.validate import Validation, Validator
from train.watch import Interval, Made, Watch
from train.writers import Writers

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        step: The last one that was made, and saved.
        interrupted: Whether it was told to stop before its end.
        score: The best validation score; None without validation.
    """

    step: int
    interrupted: bool
    score: float | None


def run(
    config: RunConfig,
    workdir: Path,
    tracks: Tracks,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    tell: Callable[[dict[str, Any]], None] = lambda row: None,
    advance: Callable[[int], None] = lambda step: None,
) -> Outcome:
    """Trains from where the workdir is to the last step, or until told to stop.

    Args:
        config: The run's config.
        workdir: Where it leaves what it leaves; `workdir.open_workdir` has seen to it that it is this run's.
        tracks: What it learns from, checked.
        stop_requested: Asked between two steps.
        tell: Called with every row that is written.
        advance: Called with the number of each step that the devices were told to make, and of the one gone on from.

    Raises:
        JaxsepError: The run cannot go on; what was saved stays.
    """
    with _told_of_memory(config):
        return _run(config, workdir, tracks, stop_requested, tell, advance)


def _run(
    config: RunConfig,
    workdir: Path,
    tracks: Tracks,
    stop_requested: Callable[[], bool],
    tell: Callable[[dict[str, Any]], None],
    advance: Callable[[int], None],
) -> Outcome:
    devices = jax.local_device_count()
    training = config.training
    check_batch_size(training.batch_size, devices=jax.device_count(), accumulation=training.accumulation)
    variables = initial_variables(config)
    program = build_program(config, variables["params"])
    state = initial_state(config, program, variables)
    step_fn = replicate_step(program.step)
    key = jax.random.key(training.seed)
    with ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir, config.checkpoints))
        validation, interval = Validation(), Interval()
        if (restored := checkpoints.restore(state)) is not None:
            state, validation = restored.state, Validation.from_json(restored.record["validation"])
            # Not there in runs of versions whose rows told of one step.
            interval = Interval.from_json(restored.record.get("interval", interval.to_json()))
            logger.info("going on after step %d", int(state.step))
        start = int(state.step)
        state = replicate(state)
        writers = Writers(workdir, config, after=start, tell=tell)
        validator = Validator(config, tracks.validation) if config.validation.every_steps is not None else None
        pipeline = Pipeline(config, tracks.train)
        batches = stack.enter_context(closing(pipeline.batches(first_step=start)))
        factor = float(state.learning_rate_factor)
        watch = Watch(config, writers, pipeline, workdir, interval=interval, learning_rate_factor=factor)
        advance(start)
        step, told = start, False
        while step < training.steps and not told and not validation.is_over(config.validation):
            began = time.perf_counter()
            examples = next(batches)
            waited = time.perf_counter() - began
            with waiting_together(f"step {step + 1}"):  # where so many are under way that no more is taken
                state, metrics = step_fn(state, shard(examples, devices), key)
            step += 1
            watch.made(Made(step, metrics, examples, waited))
            advance(step)
            told = _is_told_to_stop(stop_requested, step, config)
            score = None
            if validator is not None and (step % validator.every_steps == 0 or step == training.steps):
                watch.finish()
                began = time.perf_counter()
                scores = validator.scores(state.evaluated_variables)
                validation, factor = validation.after(step, scores, config)
                state = state.replace(learning_rate_factor=replicate(np.float32(factor)))
                writers.write_validation(step, pipeline.epoch(step), scores, validator.excerpt)
                watch.validated(time.perf_counter() - began, factor)
                score = scores.mean
            last = told or step == training.steps
            if last or score is not None or step % config.checkpoints.every_steps == 0:
                watch.finish()
                checkpoints.save(state, _record(config, validation, watch.interval), score=score)
    return Outcome(step, told and step < training.steps, validation.best_score)


@contextmanager
def _told_of_memory(config: RunConfig) -> Iterator[None]:
    """Says in a sentence that memory ran out, the host's or a device's, and what takes it.

    Raises:
        JaxsepError: It did.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        length, rate = config.segment_length, config.model.sample_rate
        raise JaxsepError(
            f"There is not enough memory for training.batch_size {config.training.batch_size} and segments of {length} "
            f"samples, {length / rate:.2f} s (data.segment_length); lower one of them, or raise training.accumulation."
        ) from None


def _is_told_to_stop(stop_requested: Callable[[], bool], step: int, config: RunConfig) -> bool:
    """Asks between steps; several processes agree on it now and then, since that costs them a round of messages."""
    if jax.process_count() == 1:
        return stop_requested()
    return step % config.logging.every_steps == 0 and on_any_process(stop_requested())


def _record(config: RunConfig, validation: Validation, interval: Interval) -> dict[str, Any]:
    return {
        "spec": config.model.model_dump(mode="json"),
        "config": config.model_dump(mode="json"),
        "validation": validation.to_json(),
        "interval": interval.to_json(),
    }
