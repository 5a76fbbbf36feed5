"""The loop: restore the latest, then step, write, evaluate, save. What each of these does is in a file of its own."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsep.environment import peak_memory_bytes
from jaxsep.errors import JaxsepError
from jaxsep.training.state import TrainState
from jaxsep.training.step import Metrics
from train.augment import Examples
from train.checkpoints import Checkpoints
from train.config import RunConfig
from train.input_pipeline import Pipeline
from train.parallel import check_batch_size, on_any_process, replicate, replicate_step, shard
from train.program import build_program, initial_state, initial_variables
from train.tracks import Tracks
from train.validate import Validation, Validator
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


class _Made(NamedTuple):
    """A step that the device was told to make."""

    step: int
    metrics: Metrics
    examples: Examples
    loader_wait_seconds: float


def run(
    config: RunConfig,
    workdir: Path,
    tracks: Tracks,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    tell: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Outcome:
    """Trains from where the workdir is to the last step, or until told to stop.

    Args:
        config: Of the run.
        workdir: Where it leaves what it leaves; `workdir.open_workdir` has seen to it that it is this run's.
        tracks: What it learns from, checked.
        stop_requested: Asked between two steps.
        tell: Called with every row that is written.

    Raises:
        JaxsepError: The run cannot go on; what was saved stays.
    """
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
        validation = Validation()
        if (restored := checkpoints.restore(state)) is not None:
            state, validation = restored.state, Validation.from_json(restored.record["validation"])
            logger.info("going on after step %d", int(state.step))
        start = int(state.step)
        state = replicate(state)
        writers = Writers(workdir, config, after=start, tell=tell)
        validator = Validator(config, tracks.validation) if config.validation.every_steps is not None else None
        pipeline = Pipeline(config, tracks.train)
        batches = stack.enter_context(closing(pipeline.batches(first_step=start)))
        watch = _Watch(config, program.schedule, writers, pipeline, workdir, state)
        step, stopped = start, validation.is_over(config.validation)
        while step < training.steps and not stopped:
            began = time.perf_counter()
            examples = next(batches)
            waited = time.perf_counter() - began
            state, metrics = step_fn(state, shard(examples, devices), key)
            step += 1
            watch.made(_Made(step, metrics, examples, waited))
            stopped = _is_told_to_stop(stop_requested, step, config)
            at_end = stopped or step == training.steps
            score = None
            if validator is not None and (step % validator.every_steps == 0 or step == training.steps):
                watch.finish()
                scores = validator.scores(state.evaluated_variables)
                validation, factor = validation.after(step, scores, config)
                state = state.replace(learning_rate_factor=replicate(np.float32(factor)))
                watch.learning_rate_factor = factor
                writers.write_validation(step, scores, validator.excerpt)
                watch.resume()
                score, at_end = scores.mean, at_end or validation.is_over(config.validation)
                stopped = stopped or validation.is_over(config.validation)
            if at_end or score is not None or step % config.checkpoints.every_steps == 0:
                watch.finish()
                checkpoints.save(state, _record(config, validation), score=score)
        watch.finish()
        checkpoints.wait()
    return Outcome(step, stopped and not validation.is_over(config.validation), validation.best_score)


def _is_told_to_stop(stop_requested: Callable[[], bool], step: int, config: RunConfig) -> bool:
    """Asks between steps; several processes agree on it now and then, since that costs them a round of messages."""
    if jax.process_count() == 1:
        return stop_requested()
    return step % config.logging.every_steps == 0 and on_any_process(stop_requested())


def _record(config: RunConfig, validation: Validation) -> dict[str, Any]:
    return {
        "spec": config.model.model_dump(mode="json"),
        "config": config.model_dump(mode="json"),
        "validation": validation.to_json(),
    }


class _Watch:
    """Reads what a step tells one step late, so that the device never waits for the host.

    Attributes:
        learning_rate_factor: What validation has made of the learning rate.
    """

    def __init__(
        self,
        config: RunConfig,
        schedule: Callable[[int], Any],
        writers: Writers,
        pipeline: Pipeline,
        workdir: Path,
        state: TrainState,
    ) -> None:
        self._config, self._schedule, self._writers = config, schedule, writers
        self._pipeline, self._workdir = pipeline, workdir
        self.learning_rate_factor = float(state.learning_rate_factor)
        self._late: _Made | None = None
        self.resume()

    def made(self, step: _Made) -> None:
        late, self._late = self._late, step
        if late is not None:
            self._read(late)

    def resume(self) -> None:
        """Forgets the time since the last row, which went into something else than steps."""
        self._since, self._steps, self._waited = time.perf_counter(), 0, 0.0

    def finish(self) -> None:
        """Waits for the step that is being made."""
        late, self._late = self._late, None
        if late is not None:
            self._read(late)

    def _read(self, made: _Made) -> None:
        metrics = jax.device_get(made.metrics)
        if not metrics.finite:
            raise self._not_finite(made, metrics)
        self._steps += 1
        self._waited += made.loader_wait_seconds
        config = self._config
        if made.step % config.logging.every_steps and made.step != config.training.steps:
            return
        seconds = (time.perf_counter() - self._since) / self._steps
        self._writers.write_row(
            {
                "step": made.step,
                "loss": float(metrics.loss),
                "stems": dict(zip(config.model.stems, map(float, metrics.stems), strict=True)),
                "gradient_norm": float(metrics.gradient_norm),
                "learning_rate": float(self._schedule(made.step - 1)) * self.learning_rate_factor,
                "timing": {
                    "seconds_per_step": seconds,
                    "examples_per_second": config.training.batch_size / seconds,
                    "loader_wait_seconds": self._waited / self._steps,
                    "device_memory_bytes": _device_memory_bytes(),
                    "host_memory_bytes": peak_memory_bytes(),
                },
            }
        )
        self.resume()

    def _not_finite(self, made: _Made, metrics: Metrics) -> JaxsepError:
        """Writes down the batch of a step that is not finite."""
        path = self._workdir / f"not-finite-{made.step}-{jax.process_index()}.npz"
        arrays = {name: value for name, value in made.examples._asdict().items() if value is not None}
        np.savez(path, **arrays)
        places = "; ".join(self._pipeline.describe(int(number)) for number in made.examples.index)
        return JaxsepError(
            f"Step {made.step} is not finite: loss {metrics.loss}, gradient norm {metrics.gradient_norm}. Its "
            f"examples ({places}) are in {path}; lower the learning rate, clip gradients, or look at the tracks."
        )


def _device_memory_bytes() -> int | None:
    """The most that the first device has held; None where it does not tell."""
    statistics = jax.local_devices()[0].memory_stats()
    return statistics.get("peak_bytes_in_use") if statistics else None
