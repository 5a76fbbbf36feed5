"""How long whole commands take, and how much memory, side by side. Networks alone are in network_speed.py.

`python -m jaxsep.compare.process_speed --output FILE.json NAME=COMMAND...`: the commands run in turn, A B A B ..., so
that what else the machine does falls on all of them; ratios are taken pair by pair. A command may start with variables
(`VAR=value`), and `{fresh}` in it becomes a new, empty directory for every run, which it is to fill: `spleeter
separate` ends with status 0 where it finds no ffmpeg, having done nothing.
"""

import argparse
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxsep.compare import load
from jaxsep.environment import processor, processors, versions


@dataclass(frozen=True)
class Run:
    """One run of a command.

    Attributes:
        wall_seconds: From start to end.
        cpu_seconds: Of all its threads and processes.
        peak_memory_bytes: Of its largest process.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


def run_command(command: str) -> Run:
    """Runs a command to its end and returns what the operating system accounts for it.

    Args:
        command: As a shell splits words; no shell runs it.

    Raises:
        RuntimeError: If the command fails or leaves its fresh directory empty, with the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as fresh, tempfile.TemporaryFile() as printed:
        words = [word.replace("{fresh}", fresh) for word in shlex.split(command)]
        environment = dict(os.environ)
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        started = time.perf_counter()
        process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        failure = f"failed with {process.returncode}" if process.returncode else None
        if not failure and "{fresh}" in command and not any(Path(fresh).iterdir()):
            failure = "wrote nothing"
        if failure:
            printed.seek(0)
            said = printed.read()[-2000:].decode(errors="replace")
            raise RuntimeError(f"{command} {failure}: {said}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def measure(commands: Mapping[str, str], *, runs: int, warm_up: int) -> dict[str, Any]:
    """Runs commands in turn.

    Args:
        commands: By name; the first is what the others are compared with.
        runs: Counted runs of each.
        warm_up: Runs of each before those.

    Returns:
        For every name its runs, their medians, how far they lie apart, the largest load average after any of them, and
        the median of the ratios of its wall time to the first command's.
    """
    measured: dict[str, list[Run]] = {name: [] for name in commands}
    during: dict[str, list[float | None]] = {name: [] for name in commands}
    for turn in range(warm_up + runs):
        for name, command in commands.items():
            run = run_command(command)
            if turn >= warm_up:
                measured[name].append(run)
                during[name].append(load.load_average())
    first = next(iter(measured.values()))
    return {
        name: {
            "command": commands[name],
            "median_wall_seconds": statistics.median(run.wall_seconds for run in counted),
            "median_cpu_seconds": statistics.median(run.cpu_seconds for run in counted),
            "peak_memory_bytes": max(run.peak_memory_bytes for run in counted),
            "steadiness": load.steadiness([[run.wall_seconds] for run in counted]),
            "load_during": load.largest(during[name]),
            "wall_time_over_first": statistics.median(
                own.wall_seconds / other.wall_seconds for own, other in zip(counted, first, strict=True)
            ),
            "runs": [asdict(run) for run in counted],
        }
        for name, counted in measured.items()
    }


def main() -> None:
    """Measures the commands given and writes the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1)
    options = parser.parse_args()
    before = load.load_average()
    commands = dict(command.split("=", 1) for command in options.commands)
    measured = measure(commands, runs=options.runs, warm_up=options.warm_up)
    steady = [load.row_of(name, each["steadiness"]) for name, each in measured.items()]
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "jaxsep.compare.process_speed", *sys.argv[1:]]),
        "processor": processor(),
        "cores": processors(),
        "versions": versions(),
        "load_average": load.verdict(before, [each["load_during"] for each in measured.values()], processors(), steady),
        "measured": measured,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    for name, result in measured.items():
        print(
            f"{name:24} {result['median_wall_seconds']:8.2f} s  {result['peak_memory_bytes'] / 1e6:8.0f} MB  "
            f"{result['wall_time_over_first']:6.2f} x"
        )
    print(load.in_words(report["load_average"]))


if __name__ == "__main__":
    main()
