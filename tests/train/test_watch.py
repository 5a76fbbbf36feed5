"""How long the device computes, by a clock that a test moves; and what the rows of a run tell of time."""

import json
import threading
import time

import pytest
from train_runs import PLAIN, SHALLOW, SMOKE

from train import watch
from train.config import load_config
from train.loop import run
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
            "seconds_per_step", "examples_per_second", "loader_wait_seconds", "device_seconds", "device_memory_bytes",
            "host_memory_bytes",
        }  # fmt: skip
        assert timing["device_seconds"] > 0 and timing["seconds_per_step"] > 0
        assert timing["examples_per_second"] == pytest.approx(4 / timing["seconds_per_step"])
    for what in ("seconds_per_step", "device_seconds"):
        assert sum(timing[what] for timing in timings) < elapsed
