"""Runs that are killed, told to stop, or left by another process: real processes, real signals."""

import random
import signal
import time

import numpy as np
import pytest
from train_runs import PLAIN, SHALLOW, count_rows, rows, run, start

from jaxsep.weights.runs import choose_checkpoint, read_state
from jaxsep.weights.tree import flatten

# A step of this takes some 10 ms, a save several times as long.
LONG = (
    SHALLOW,
    "training.steps=80",
    "checkpoints.every_steps=7",
    *PLAIN,
    "validation.every_steps=25",
    "validation.seconds=1.0",
)
KILLS, IN_FLIGHT = 6, 2


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    """A run from its first step to its last."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(workdir, *LONG, cache=cache)
    return workdir


def assert_same_run(found, expected):
    assert rows(found) == rows(expected)
    states = (flatten(read_state(choose_checkpoint(workdir, "latest"))) for workdir in (found, expected))
    for (path, leaf), (other_path, other) in zip(*(state.items() for state in states), strict=True):
        assert path == other_path
        np.testing.assert_array_equal(leaf, other, err_msg=path)


def test_a_run_that_is_killed_and_told_to_stop_again_and_again_goes_on_bit_for_bit(tmp_path, cache, undisturbed):
    """kill -9 at random moments, and while a checkpoint is being written; signals; and each time the same command.

    One run for all of it, since each process is seconds of starting: what one of them lost the last one would tell.
    """
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    workdir = tmp_path / "run"
    unfinished, seen = workdir / "checkpoints", 0
    for number in range(KILLS):
        process = start(workdir, *LONG, cache=cache)
        try:
            rows_before, target = count_rows(workdir), chance.randrange(1, 6)
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                if number < IN_FLIGHT and any(unfinished.glob(".unfinished.*")) and count_rows(workdir):
                    seen += 1
                    break
                if number >= IN_FLIGHT and abs(count_rows(workdir) - rows_before) >= target:
                    time.sleep(chance.uniform(0, 0.05))
                    break
                time.sleep(0.001)
            assert process.poll() is None, process.communicate()
        finally:
            process.kill()
            process.communicate()
    assert seen == IN_FLIGHT
    for number in (signal.SIGTERM, signal.SIGINT):
        stop(workdir, number, cache)
    run(workdir, *LONG, cache=cache)
    assert_same_run(workdir, undisturbed)
    assert not list(unfinished.glob(".*"))


def stop(workdir, number, cache):
    """Goes on with a run for some steps, and sends a signal, which saves and ends with a status of its own."""
    told = count_rows(workdir)
    process = start(workdir, *LONG, cache=cache)
    # Rows of steps that a killed run did not save are taken away, and told again.
    while abs(count_rows(workdir) - told) < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    step = int(choose_checkpoint(workdir, "latest").name)
    assert f"stopped and saved after step {step}" in out
    assert rows(workdir)[-1]["step"] == step


def test_a_run_goes_on_on_another_number_of_devices(tmp_path, cache, undisturbed):
    plain = (*LONG, "validation.every_steps=null")
    run(tmp_path / "run", *plain, "training.steps=15", cache=cache)
    run(tmp_path / "run", *plain, "training.steps=40", cache=cache, devices=4)
    expected = {row["step"]: row["loss"] for row in rows(undisturbed) if "loss" in row}
    found = {row["step"]: row["loss"] for row in rows(tmp_path / "run")}
    assert list(found) == list(range(1, 41))
    for step, loss in found.items():
        # The same steps up to the 15th; then means of four means, whose rounding 25 Adam steps of 1e-3 enlarge.
        assert loss == pytest.approx(expected[step], rel=0 if step <= 15 else 1e-3), step
