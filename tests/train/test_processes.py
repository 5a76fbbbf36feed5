"""Runs of several processes: they train as one does, and none outlives another one by much."""

import socket
import time

import numpy as np
import pytest
from train_runs import PLAIN, SHALLOW, count_rows, rows, run, start

from jaxsep.weights.runs import choose_checkpoint, read_state
from jaxsep.weights.tree import flatten


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def start_two(workdir, *overrides, cache):
    port = free_port()
    return [
        start(
            workdir,
            *overrides,
            cache=cache,
            devices=2,
            options=("--coordinator", f"localhost:{port}", "--processes", "2", "--process", str(process)),
        )
        for process in range(2)
    ]


# Plain SGD: Adam makes whole steps of the rounding of gradients that are nearly zero, as those of some biases are.
SHORT = (
    "training.steps=10",
    "checkpoints.every_steps=5",
    "optimizer.kind=sgd",
    "optimizer.learning_rate=0.01",
    SHALLOW,
    *PLAIN,
)


def test_two_processes_train_as_one_does(tmp_path, cache):
    """Two processes of two devices each, talking over loopback; then one of four devices."""
    processes = start_two(tmp_path / "two", *SHORT, cache=cache)
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    run(tmp_path / "one", *SHORT, cache=cache, devices=4)
    for found, expected in zip(rows(tmp_path / "two"), rows(tmp_path / "one"), strict=True):
        # The sums over devices come in another order.
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    states = [flatten(read_state(choose_checkpoint(tmp_path / name, "latest"))) for name in ("two", "one")]
    for path, leaf in states[1].items():
        if path.startswith("params"):
            # Biases begin at zero and may stay near it: ten steps of 0.01 add up the rounding of gradients, 1e-6.
            rounding = 1e-7 * np.sqrt(leaf.size)
            assert np.linalg.norm(states[0][path] - leaf) < 1e-5 * np.linalg.norm(leaf) + rounding, path


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_others(tmp_path, cache, victim):
    processes = start_two(
        tmp_path / "run", *SHORT, "training.steps=100000", "checkpoints.every_steps=100000", cache=cache
    )
    try:
        while count_rows(tmp_path / "run") < 5:
            for process in processes:
                assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        processes[victim].kill()
        killed = time.monotonic()
        _, err = processes[1 - victim].communicate(timeout=60)
        assert time.monotonic() - killed < 30
        assert processes[1 - victim].returncode not in (0, 75)
        assert "Traceback" not in err
        assert "Another process of this run is gone" in err
    finally:
        for process in processes:
            process.kill()
            process.communicate()
