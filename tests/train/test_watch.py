"""How long the device computes, by a clock that a test moves; and what the rows of a run tell of time."""

import io
import json
import threading
import time

import pytest
from rich.console import Console
from train_runs import PLAIN, SHALLOW, SMOKE, rows, start

from jaxsep.weights.runs import saved_steps
from train import watch
from train.config import load_config
from train.loop import run
from train.progress import shown_progress
from train.tracks import find_tracks
from train.watch import DeviceClock


class Clock:
    """Says the time that it is set to."""

    def __init__(self):
        self.now = 0.0
        self.asked = threading.Semaphore(0)

    def perf_counter(self):
        now = self.now
        self.asked.release()
        return now


class Result:
    """Of a step: done when it is told to be."""

    def __init__(self):
        self._done = threading.Event()

    def block_until_ready(self):
        assert self._done.wait(30)
        return self

    def done_at(self, now, clock):
        clock.now = now
        self._done.set()
        assert clock.asked.acquire(timeout=30)  # the time is looked at before it changes again


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(watch, "time", clock)
    return clock


def dispatched(timer, clock, now):
    clock.now, result = now, Result()
    timer.dispatched([result])
    clock.asked.acquire()
    return result


def test_a_step_is_computed_from_when_it_could_begin_until_it_is_done_however_late_it_is_asked_for(clock):
    timer = DeviceClock()
    first = dispatched(timer, clock, 1.0)
    second = dispatched(timer, clock, 2.0)
    first.done_at(6.0, clock)
    second.done_at(8.0, clock)
    # The device had nothing to do from 8 to 20.
    third = dispatched(timer, clock, 20.0)
    third.done_at(23.0, clock)
    clock.now = 100.0
    assert [timer.next_step() for _ in range(3)] == [5.0, 2.0, 3.0]


def test_rows_tell_how_long_things_took(tmp_path):
    config = load_config(SMOKE, [*PLAIN, SHALLOW, "training.steps=4"])
    began = time.perf_counter()
    run(config, tmp_path, find_tracks(config.data, config.model))
    elapsed = time.perf_counter() - began
    timings = [json.loads(line)["timing"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(timings) == 4
    for timing in timings:
        assert timing.keys() == {
            "seconds_per_step", "examples_per_second", "loader_wait_seconds", "device_seconds", "seconds_left",
            "device_memory_bytes", "host_memory_bytes",
        }  # fmt: skip
        assert timing["device_seconds"] > 0 and timing["seconds_per_step"] > 0
        assert timing["examples_per_second"] == pytest.approx(4 / timing["seconds_per_step"])
    for what in ("seconds_per_step", "device_seconds"):
        assert sum(timing[what] for timing in timings) < elapsed


def test_seconds_a_step_times_steps_are_the_time_that_the_run_took(tmp_path):
    """From the third row to the last, by when this process hears of them, and without the validations in between.

    In a process of its own: with the several devices of this one, a step is waited for when it is dispatched.
    """
    overrides = ("training.steps=60", "optimizer.schedule={kind: cosine, steps: 60}", "validation.every_steps=25")
    with start(tmp_path / "run", *PLAIN, *overrides, "validation.seconds=1.0", cache=tmp_path / "cache") as process:
        came = [time.perf_counter() for line in process.stdout if line.startswith("step ")]
        assert process.wait() == 0, process.stderr.read()
    told = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = max(place for place, row in enumerate(told) if "loss" in row)
    assert [row["step"] for row in told[: last + 1] if "loss" in row] == list(range(1, 61))
    rows_between = told[3 : last + 1]
    steps = sum(row["timing"]["seconds_per_step"] for row in rows_between if "loss" in row)
    validations = sum(row["timing"]["validation_seconds"] for row in rows_between if "validation" in row)
    assert steps == pytest.approx(came[last] - came[2] - validations, rel=0.05)
    lefts = [row["timing"]["seconds_left"] for row in told[: last + 1] if "loss" in row]
    assert lefts[0] is None and all(left > 0 for left in lefts[1:-1])


def test_rows_hold_means_over_the_steps_since_the_row_before_wherever_the_run_was_cut(tmp_path):
    """Of a run with a row for each step; and of one that stops between two rows and goes on."""

    def train(name, *overrides, **options):
        (tmp_path / name).mkdir(exist_ok=True)
        config = load_config(SMOKE, [*PLAIN, SHALLOW, "training.steps=10", *overrides])
        run(config, tmp_path / name, find_tracks(config.data, config.model), **options)
        return rows(tmp_path / name)

    single = train("single")
    means = train("means", "logging.every_steps=4")
    asked = iter([False] * 5 + [True])
    train("cut", "logging.every_steps=4", stop_requested=lambda: next(asked))
    assert saved_steps(tmp_path / "cut").keys() == {6}
    assert train("cut", "logging.every_steps=4") == means
    assert [row["step"] for row in means] == [4, 8, 10]
    for row, part in zip(means, (single[:4], single[4:8], single[8:]), strict=True):
        for what in ("loss", "gradient_norm"):
            assert row[what] == pytest.approx(sum(each[what] for each in part) / len(part), rel=1e-12)
        for stem, loss in row["stems"].items():
            assert loss == pytest.approx(sum(each["stems"][stem] for each in part) / len(part), rel=1e-12)
        # Four examples a step, eight tracks.
        assert row["epoch"] == row["step"] * 4 / 8
        assert row["learning_rate"] == part[-1]["learning_rate"]


def test_the_time_left_counts_steps_and_validations_still_to_come():
    config = load_config(SMOKE, ["training.steps=100", "validation.every_steps=40"])
    pace = watch._Pace(config)
    pace.read(1, 50.0)  # compiled
    assert pace.seconds_left(1, 50.0) is None
    pace.validated(7.0)
    # Nine steps in 18 s, and a validation beside them.
    assert pace.seconds_left(10, 75.0) == pytest.approx(90 * 2 + 3 * 7)
    assert pace.seconds_left(80, 50.0 + 79 * 2 + 7) == pytest.approx(20 * 2 + 2 * 7)
    assert pace.seconds_left(100, 50.0 + 99 * 2 + 7) == pytest.approx(7)


def test_a_terminal_shows_a_bar_and_what_is_no_terminal_shows_none():
    row = {"loss": 0.123456, "timing": {"seconds_left": 3725.2}}
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=120)
        with shown_progress(20, console) as progress:
            progress.advance(5)
            progress.tell(row)
            progress.tell({"validation": {"sdr": 1.0}})
        shown = console.file.getvalue()
        told = " 5/20" in shown and "1:02:05 left  loss 0.12346" in shown
        assert told if is_terminal else not shown
