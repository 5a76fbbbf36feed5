"""What a run's steps tell: read one step late, written as rows of means; the batch of a step that is not finite."""

import dataclasses
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsep.environment import peak_memory_bytes
from jaxsep.errors import JaxsepError
from jaxsep.training.optimizer import learning_rate_at
from jaxsep.training.step import Metrics
from train.augment import Examples
from train.config import RunConfig
from train.input_pipeline import Pipeline
from train.parallel import waiting_together
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


@dataclass(frozen=True)
class Interval:
    """What the steps since the last row told, added up. It is saved with every checkpoint and goes on from there.

    Attributes:
        steps: Number of steps.
        loss: Sum of their losses.
        stems: Sums of the losses of each stem.
        gradient_norm: Sum of their gradients' norms.
    """

    steps: int = 0
    loss: float = 0.0
    stems: tuple[float, ...] = ()
    gradient_norm: float = 0.0

    def after(self, metrics: Metrics) -> "Interval":
        """Returns it with one more step.

        Args:
            metrics: The step's metrics, on the host.
        """
        stems = [float(each) for each in metrics.stems]
        return Interval(
            self.steps + 1,
            self.loss + float(metrics.loss),
            tuple(before + each for before, each in zip(self.stems or (0.0,) * len(stems), stems, strict=True)),
            self.gradient_norm + float(metrics.gradient_norm),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON has it, every bit kept."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Interval":
        """Returns what `to_json` gave."""
        return cls(**{**data, "stems": tuple(data["stems"])})


class Watch:
    """Reads what a step tells one step late, so that the device never waits for the host.

    Attributes:
        interval: What the steps since the last row told.
    """

    interval: Interval

    def __init__(
        self,
        config: RunConfig,
        writers: Writers,
        pipeline: Pipeline,
        workdir: Path,
        *,
        interval: Interval,
        learning_rate_factor: float,
    ) -> None:
        """Begins to measure time.

        Args:
            config: The run's config.
            writers: What rows go to.
            pipeline: The source of the examples.
            workdir: The run's folder.
            interval: What the checkpoint holds that the run goes on from.
            learning_rate_factor: Factor of the learning rate that validation has come to so far.
        """
        self._config, self._writers = config, writers
        self._pipeline, self._workdir = pipeline, workdir
        self._late: Made | None = None
        self._clock = DeviceClock()
        self.interval, self._factor = interval, learning_rate_factor
        self._since, self._timed, self._waited, self._computed = time.perf_counter(), 0, 0.0, 0.0
        self._pace = _Pace(config)

    def made(self, step: Made) -> None:
        """Takes a step that was just dispatched, and reads the one before.

        Raises:
            JaxsepError: That one is not finite.
        """
        self._clock.dispatched(step.metrics)
        late, self._late = self._late, step
        if late is not None:
            self._read(late)

    def finish(self) -> None:
        """Waits for the step that is being made.

        Raises:
            JaxsepError: It is not finite.
        """
        late, self._late = self._late, None
        if late is not None:
            self._read(late)

    def validated(self, seconds: float, learning_rate_factor: float) -> None:
        """Takes the time of a validation, which is no step's.

        Args:
            seconds: Time that went into it.
            learning_rate_factor: Factor of the learning rate from now on.
        """
        self._factor = learning_rate_factor
        self._since += seconds
        self._pace.validated(seconds)

    def _read(self, made: Made) -> None:
        with waiting_together(f"step {made.step}"):
            metrics = jax.device_get(made.metrics)
        if not metrics.finite:
            raise self._not_finite(made, metrics)
        self.interval = self.interval.after(metrics)
        self._timed += 1
        self._waited += made.loader_wait_seconds
        self._computed += self._clock.next_step()
        now = time.perf_counter()
        self._pace.read(made.step, now)
        config = self._config
        if made.step % config.logging.every_steps and made.step != config.training.steps:
            return
        seconds = (now - self._since) / self._timed
        interval = self.interval
        stems = [each / interval.steps for each in interval.stems]
        row = {
            "step": made.step,
            "epoch": self._pipeline.epoch(made.step),
            "loss": interval.loss / interval.steps,
            "stems": dict(zip(config.model.stems, stems, strict=True)),
            "gradient_norm": interval.gradient_norm / interval.steps,
            # On the host: the device is busy with the next step, and would be waited for.
            "learning_rate": learning_rate_at(config.optimizer, made.step - 1) * self._factor,
            "timing": {
                "seconds_per_step": seconds,
                "examples_per_second": config.training.batch_size / seconds,
                "loader_wait_seconds": self._waited / self._timed,
                "device_seconds": self._computed / self._timed,
                "seconds_left": self._pace.seconds_left(made.step, now),
                "device_memory_bytes": _device_memory_bytes(),
                "host_memory_bytes": peak_memory_bytes(),
            },
        }
        self.interval = Interval()
        # From when this step was read, so that nothing that is done in between is lost.
        self._since, self._timed, self._waited, self._computed = now, 0, 0.0, 0.0
        self._writers.write_row(row)

    def _not_finite(self, made: Made, metrics: Metrics) -> JaxsepError:
        """Writes down the batch of a step that is not finite."""
        path = self._workdir / f"not-finite-{made.step}-{jax.process_index()}.npz"
        arrays = {name: value for name, value in made.examples._asdict().items() if value is not None}
        try:
            np.savez(path, **arrays)
            kept = f"are in {path}"
        except OSError as error:
            kept = f"could not be kept ({error.strerror or error})"
        places = "; ".join(self._pipeline.describe(int(number)) for number in made.examples.index)
        return JaxsepError(
            f"Step {made.step} is not finite: loss {metrics.loss}, gradient norm {metrics.gradient_norm}. Its "
            f"examples ({places}) {kept}; lower the learning rate, clip gradients, or look at the tracks."
        )


class _Pace:
    """How long the rest of a run will take, by the steps and validations that this process has made.

    The first step is left out: it is compiled.
    """

    def __init__(self, config: RunConfig) -> None:
        self._steps, self._every = config.training.steps, config.validation.every_steps
        self._first: tuple[int, float] | None = None
        self._validation = 0.0

    def read(self, step: int, now: float) -> None:
        if self._first is None:
            self._first = step, now

    def validated(self, seconds: float) -> None:
        self._validation = seconds
        if self._first is not None:
            self._first = self._first[0], self._first[1] + seconds

    def seconds_left(self, step: int, now: float) -> float | None:
        """Returns an estimate in seconds; None after the first step, which tells nothing of the others."""
        if self._first is None or self._first[0] == step:
            return None
        seconds = (now - self._first[1]) / (step - self._first[0])
        # A row comes before the validation of its step.
        validations = 0 if self._every is None else -(-self._steps // self._every) - (step - 1) // self._every
        return (self._steps - step) * seconds + validations * self._validation


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
