"""What a run's steps tell: read one step late, written as rows; and the batch of a step that is not finite."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsep.environment import peak_memory_bytes
from jaxsep.errors import JaxsepError
from jaxsep.training.state import TrainState
from jaxsep.training.step import Metrics
from train.augment import Examples
from train.config import RunConfig
from train.input_pipeline import Pipeline
from train.writers import Writers


class Made(NamedTuple):
    """A step that the device was told to make.

    Attributes:
        step: Its number, from 1.
        metrics: On the device.
        examples: What it was made with.
        loader_wait_seconds: How long they were waited for.
    """

    step: int
    metrics: Metrics
    examples: Examples
    loader_wait_seconds: float


class Watch:
    """Reads what a step tells one step late, so that the device never waits for the host."""

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
        self._late: Made | None = None
        self._clock = DeviceClock()
        self.resume(float(state.learning_rate_factor))

    def made(self, step: Made) -> None:
        """Takes a step that was just dispatched, and reads the one before.

        Raises:
            JaxsepError: That one is not finite.
        """
        self._clock.dispatched(step.metrics)
        late, self._late = self._late, step
        if late is not None:
            self._read(late)

    def resume(self, learning_rate_factor: float) -> None:
        """Forgets the time since the last row, which went into a validation.

        Args:
            learning_rate_factor: What validation has made of the learning rate.
        """
        self._factor = learning_rate_factor
        self._since, self._steps, self._waited = time.perf_counter(), 0, 0.0
        self._computed = 0.0

    def finish(self) -> None:
        """Waits for the step that is being made.

        Raises:
            JaxsepError: It is not finite.
        """
        late, self._late = self._late, None
        if late is not None:
            self._read(late)

    def _read(self, made: Made) -> None:
        metrics = jax.device_get(made.metrics)
        if not metrics.finite:
            raise self._not_finite(made, metrics)
        self._steps += 1
        self._waited += made.loader_wait_seconds
        self._computed += self._clock.next_step()
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
                "learning_rate": float(self._schedule(made.step - 1)) * self._factor,
                "timing": {
                    "seconds_per_step": seconds,
                    "examples_per_second": config.training.batch_size / seconds,
                    "loader_wait_seconds": self._waited / self._steps,
                    "device_seconds": self._computed / self._steps,
                    "device_memory_bytes": _device_memory_bytes(),
                    "host_memory_bytes": peak_memory_bytes(),
                },
            }
        )
        self.resume(self._factor)

    def _not_finite(self, made: Made, metrics: Metrics) -> JaxsepError:
        """Writes down the batch of a step that is not finite."""
        path = self._workdir / f"not-finite-{made.step}-{jax.process_index()}.npz"
        arrays = {name: value for name, value in made.examples._asdict().items() if value is not None}
        np.savez(path, **arrays)
        places = "; ".join(self._pipeline.describe(int(number)) for number in made.examples.index)
        return JaxsepError(
            f"Step {made.step} is not finite: loss {metrics.loss}, gradient norm {metrics.gradient_norm}. Its "
            f"examples ({places}) are in {path}; lower the learning rate, clip gradients, or look at the tracks."
        )


class DeviceClock:
    """How long the device computes each step: from when it could begin until its metrics are there.

    It can begin when the step is dispatched and the one before is done. A thread waits for each, since the run itself
    looks at a step only after the next one is dispatched, and waits for data in between.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device clock")
        self._steps: list[tuple[float, Future[float]]] = []
        self._last_done = -float("inf")

    def dispatched(self, metrics: Any) -> None:
        """Takes what a step that was just dispatched will give."""
        self._steps.append((time.perf_counter(), self._thread.submit(_when_done, metrics)))

    def next_step(self) -> float:
        """Returns the seconds of the first step that was not asked for yet, and waits until it is done."""
        dispatched, done = self._steps.pop(0)
        began, self._last_done = max(dispatched, self._last_done), done.result()
        return self._last_done - began


def _when_done(metrics: Any) -> float:
    jax.block_until_ready(metrics)
    return time.perf_counter()


def _device_memory_bytes() -> int | None:
    """The most that the first device has held; None where it does not tell."""
    statistics = jax.local_devices()[0].memory_stats()
    return statistics.get("peak_bytes_in_use") if statistics else None
