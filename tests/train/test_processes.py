"""Runs of several processes: they train as one does, and none outlives another one by much."""

import os
import re
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
import pytest
from train_runs import PLAIN, SHALLOW, count_rows, rows, run, start

from jaxsep.errors import ConfigError
from jaxsep.weights.runs import choose_checkpoint, read_state
from jaxsep.weights.tree import flatten
from train import parallel
from train.parallel import check_coordinator, start_processes, waiting_for


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def start_two(workdir, *overrides, cache, **options):
    port = free_port()
    return [
        start(
            workdir,
            *overrides,
            cache=cache,
            devices=2,
            options=("--coordinator", f"localhost:{port}", "--processes", "2", "--process", str(process)),
            **options,
        )
        for process in range(2)
    ]


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("coordinator", "told"),
    [
        ("nonsense", "'nonsense' is no HOST:PORT; give the address of process 0, such as 10.0.0.1:8476"),
        (":8476", "is no HOST:PORT"),
        ("localhost:", "is no HOST:PORT"),
        ("localhost:port", "'port' in 'localhost:port' is no port; give a number from 1 to 65535"),
        ("localhost:65536", "is no port"),
        ("localhost:-1", "is no port"),
        ("there.invalid:8476", r"There is no host 'there.invalid' \(.*\); give that of process 0"),
        ("a" * 70 + ".b:1", "There is no host 'aaa"),
    ],
)
def test_a_coordinator_that_is_no_address_is_told_so(coordinator, told):
    with pytest.raises(ConfigError, match=told):
        check_coordinator(coordinator)


def test_addresses_are_taken():
    looked_up = []
    for coordinator in ("localhost:8476", "10.0.0.1:1", "[::1]:65535", "node-7.cluster:8476"):
        check_coordinator(coordinator, resolve=lambda host, port: looked_up.append((host, port)))
    assert looked_up == [("localhost", 8476), ("10.0.0.1", 1), ("::1", 65535), ("node-7.cluster", 8476)]


@pytest.mark.parametrize(
    ("process", "whom"),
    [
        (0, "the other 2 processes of this run to come to localhost:8476; this is process 0"),
        (2, "process 0 at localhost:8476, and for all 3 processes of this run; this is process 2"),
    ],
)
def test_a_process_that_waits_says_so_and_for_whom_and_gives_up_in_time(monkeypatch, caplog, process, whom):
    given_up = []
    caplog.set_level("INFO", logger="train")
    monkeypatch.setattr(parallel, "TELL_SECONDS", 0.1)
    preemption = jax.config.jax_enable_preemption_service
    over = threading.Event()
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments, **options: over.wait(30))

    def give_up(sentence):
        given_up.append(sentence)
        over.set()

    try:
        start_processes("localhost:8476", 3, process, give_up=give_up, timeout=0.35)
    finally:
        jax.config.update("jax_enable_preemption_service", preemption)
    assert given_up == [f"The processes of this run do not find each other: after 0 s this one waits for {whom}."]
    told = [record.getMessage() for record in caplog.records if "waiting for" in record.getMessage()]
    assert 2 <= len(told) <= 3 and all(each == f"waiting for {whom} (0 s so far)" for each in told)


def test_a_wait_that_is_short_is_not_told(caplog):
    caplog.set_level("INFO", logger="train")
    with waiting_for("nobody"):
        pass
    assert not caplog.records


def test_a_port_that_is_taken_is_told_so():
    with socket.socket() as other:
        other.bind(("localhost", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"Process 0 cannot listen on port {port} \(Address already in use"):
            start_processes(f"localhost:{port}", 2, 0, give_up=pytest.fail)


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
def test_a_process_that_hangs_is_told_by_the_others_and_one_that_is_killed_ends_them(tmp_path, cache, victim):
    """First stopped, as a host that hangs is: whoever waits says so, every third of a second here. Then killed."""
    program = "import train.parallel, train.__main__ as main; train.parallel.TELL_SECONDS = 0.3; main.app()"
    long = ("training.steps=100000", "checkpoints.every_steps=100000", "logging.every_steps=20")
    processes = start_two(tmp_path / "run", *SHORT, *long, cache=cache, program=("-c", program))
    trains = []
    try:
        while count_rows(tmp_path / "run") < 1:
            for process in processes:
                assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        trains = [child for process in processes for child in children_of(process.pid)]
        os.kill(trains[victim], signal.SIGSTOP)
        other = processes[1 - victim]
        told = re.compile(
            r"waiting for (step \d+|a message), which takes all 2 processes of this run; "
            rf"this is process {1 - victim} \([1-9] s so far\)"
        )
        lines = [""]
        while not told.search(lines[-1]):
            lines.append(other.stderr.readline())
            assert lines[-1], lines  # the end, at which JAX has given up
        os.kill(trains[victim], signal.SIGKILL)
        processes[victim].kill()
        killed = time.monotonic()
        _, err = other.communicate(timeout=60)
        assert time.monotonic() - killed < 30
        assert other.returncode not in (0, 75)
        assert "Traceback" not in err
        assert "Another process of this run is gone" in err
    finally:
        for process in processes:
            process.kill()
        for child in trains:  # a stopped one does not see that its parent is gone
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for process in processes:
            process.communicate()
