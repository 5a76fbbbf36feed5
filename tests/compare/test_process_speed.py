"""Whole commands side by side: what is counted, and that a command that did nothing is never measured."""

import json
import shlex
import subprocess
import sys

import pytest

from jaxsep.compare.process_speed import measure, run_command


def python(code, *arguments):
    return shlex.join([sys.executable, "-c", code, *arguments])


def test_time_and_memory_of_a_command_are_counted_and_written(tmp_path):
    """By the program itself: of a process started from this large one, Linux tells what this one holds."""
    output = tmp_path / "bench" / "speed.json"
    command = python("import time; held = b'1' * 200_000_000; time.sleep(0.3)")
    options = ["--runs", "2", "--warm-up", "0", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "jaxsep.compare.process_speed", *options, f"holds={command}"],
        check=True,
        capture_output=True,
        text=True,
    )
    report = json.loads(output.read_text())
    assert ("busy machine: do not quote" in done.stdout) is bool(report["load_average"]["busy"])
    assert "Load average" in done.stdout
    measured = report["measured"]["holds"]
    assert measured["command"] == command
    assert len(measured["runs"]) == 2
    walls = [run["wall_seconds"] for run in measured["runs"]]
    assert measured["steadiness"]["round_medians_seconds"] == walls
    assert measured["steadiness"]["p50_seconds"] == pytest.approx(sum(walls) / 2)
    for run in measured["runs"]:
        assert 0.3 < run["wall_seconds"] < 30
        assert 0 < run["cpu_seconds"] < 30
        # Python itself takes 10 MB.
        assert 200e6 < run["peak_memory_bytes"] < 250e6


def test_a_variable_and_a_fresh_directory_are_given():
    code = "import os, sys; assert not os.listdir(sys.argv[1]); open(f'{sys.argv[1]}/{os.environ[\"NAME\"]}', 'w')"
    for _ in range(2):
        run_command("NAME=file " + python(code, "{fresh}"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; print('no room'); sys.exit(3)", "failed with 3: no room"),
        ("print('ffmpeg binary not found')", "wrote nothing: ffmpeg binary not found"),
    ],
)
def test_a_command_that_fails_or_does_nothing_is_an_error(code, message):
    with pytest.raises(RuntimeError, match=message):
        run_command(python(code, "{fresh}"))


def test_commands_run_by_turns_and_are_compared_pair_by_pair(tmp_path):
    log = tmp_path / "log"
    code = "import sys, time; open(sys.argv[1], 'a').write(sys.argv[2]); time.sleep(float(sys.argv[3]))"
    commands = {"a": python(code, str(log), "a", "0.1"), "b": python(code, str(log), "b", "0.6")}
    measured = measure(commands, runs=2, warm_up=1)
    assert log.read_text() == "ababab"
    assert [len(each["runs"]) for each in measured.values()] == [2, 2]
    assert measured["a"]["wall_time_over_first"] == 1
    assert measured["b"]["wall_time_over_first"] > 1
