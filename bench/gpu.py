"""How fast jaxsep is on a GPU, beside PyTorch: one run that prints a table, writes JSON and ends by itself.

`python bench/gpu.py --minutes 8 --output gpu.json [--models spleeter-2stems ...]`. Here the run is planned, watched and
written down. The rows come from gpu_rows.py, one process after another with one framework in each, so that none holds
memory that another one needs.

A bare CUDA machine with Python 3.12, jax 0.11, flax, optax, orbax, torch 2.11, numpy, safetensors and typer lacks
eleven wheels, 4.8 MB together. Where there is a network, in the root of the checkout (.whl is not for git):

    python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 -d .whl \
        pydantic pydantic-core annotated-types typing-extensions typing-inspection jaxtyping wadler-lindig \
        soundfile cffi pycparser soxr

and on the machine, before this script:

    python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site .whl/*.whl
    export PYTHONPATH=/tmp/site
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("spleeter-2stems", "wave-unet-m4", "wave-unet-torch", "htdemucs")

Row = dict[str, Any]
Task = dict[str, Any]

# In order of importance: the framework, the task, whether it is done for each model, its share of the time, and the
# seconds without which it is not begun. Neighbours of one framework share a process.
_PLAN = (
    ("jax", "peak", False, 15, 8),
    ("jax", "operations", True, 8, 10),
    ("jax", "parity", True, 20, 12),
    ("jax", "forward", True, 110, 10),
    ("torch", "peak", False, 10, 5),
    ("torch", "forward", True, 50, 5),
    ("jax", "step", True, 80, 20),
    ("torch", "step", True, 30, 10),
    ("command", "separate", True, 50, 20),
    ("torch-compile", "forward", True, 55, 20),
    ("torch-compile", "step", True, 55, 30),
)
# What a process takes to import its framework and to find the card.
_START_SECONDS = 8.0
_ROWS = ROOT / "bench" / "gpu_rows.py"
# A task looks at the clock between two rows. One that hangs in a row is ended after so many times its share of the
# time, and some seconds.
_PATIENCE, _GRACE_SECONDS = 1.5, 20.0

# The columns of the table and their widths.
_COLUMNS = {
    **{"task": 10, "model": 15, "framework": 13, "case": 8, "batch": 5},
    **{"ms": 9, "chunks/s": 9, "x real time": 11, "% of peak": 9, "GB": 7, "first s": 7},
}


class Report:
    """The rows so far, in a file that is complete after each of them.

    Attributes:
        rows: The rows, in the order in which they came.
    """

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        """Writes the file without rows.

        Args:
            path: The JSON file.
            head: What is said of the run.
        """
        self._path, self._head = path, head
        self.rows: list[Row] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write(complete=False)
        print(_line(list(_COLUMNS)), flush=True)

    def add(self, row: Row) -> None:
        """Adds a row, prints it and writes the file."""
        self.rows.append(row)
        add_share_of_peak(self.rows)
        self.write(complete=False)
        print(describe(row), flush=True)

    def write(self, *, complete: bool) -> None:
        """Writes the file under another name, and renames it."""
        temporary = self._path.with_name(f"{self._path.name}.tmp")
        content = {**self._head, "complete": complete, "rows": self.rows}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self._path)

    def table(self) -> str:
        """Returns all rows, as they were printed one by one."""
        return "\n".join([_line(list(_COLUMNS)), *map(describe, self.rows)])


def add_share_of_peak(rows: Sequence[Row]) -> None:
    """Adds to rows of networks what share they reach of the chip's peak: that of the faster framework's product."""
    peaks: dict[str, float] = {}
    operations: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["status"] != "measured":
            continue
        if row["task"] == "peak":
            peaks[row["case"]] = max(row["flops_per_second"], peaks.get(row["case"], 0.0))
        elif row["task"] == "operations":
            operations[row["model"], row["case"]] = row["flops_per_chunk"]
        elif (row["model"], row["task"]) in operations and row["case"] in peaks:
            flops = row["batch"] * operations[row["model"], row["task"]]
            row["flops_per_second"] = flops / row["median_seconds"]
            row["share_of_peak"] = row["flops_per_second"] / peaks[row["case"]]


def describe(row: Row) -> str:
    """Returns a row of the table."""
    if row["status"] != "measured":
        return _line([row["task"], row["model"], row["framework"], row["case"], row["batch"], row["status"]]) + (
            f" {row['reason']}" if row.get("reason") else ""
        )
    share, memory = row.get("share_of_peak"), row.get("memory_bytes")
    cells = [row["task"], row["model"], row["framework"], row["case"], row["batch"]]
    if row["task"] == "operations":
        return _line([*cells, f"{row['flops_per_chunk'] / 1e9:.4g} GFLOP a chunk"])
    if row["task"] == "parity":
        return _line([*cells, f"largest difference from the CPU {row['difference']:.1e}"])
    if row["task"] == "peak":
        return _line([*cells, f"{1e3 * row['median_seconds']:.3f}", f"{row['flops_per_second'] / 1e12:.2f} TFLOP/s"])
    return _line(
        [
            *cells,
            f"{1e3 * row['median_seconds']:.3f}",
            f"{row['chunks_per_second']:.1f}" if "chunks_per_second" in row else "",
            f"{row['times_real_time']:.0f}",
            f"{100 * share:.1f}" if share is not None else "",
            f"{memory / 1e9:.2f}" if memory is not None else "",
            f"{row['first_call_seconds']:.1f}" if "first_call_seconds" in row else "",
        ]
    )


def _line(cells: Sequence[Any]) -> str:
    texts = ["" if cell is None else str(cell) for cell in cells]
    return " ".join(text.ljust(width) for text, width in zip(texts, _COLUMNS.values(), strict=False)).rstrip()


def plan(models: Sequence[str], *, tiny: bool) -> list[Task]:
    """Returns the tasks, most important first.

    Args:
        models: Names of models.
        tiny: Whether nothing is compiled by PyTorch, and every task may take all the time that is left.
    """
    tasks: list[Task] = []
    for framework, task, each_model, weight, needs in _PLAN:
        if tiny and framework == "torch-compile":
            continue
        for model in models if each_model else [None]:
            tasks.append(
                {
                    "framework": framework,
                    "task": task,
                    "model": model,
                    "weight": weight,
                    "needs_seconds": 0.5 if tiny else needs,
                }
            )
    for position, each in enumerate(tasks):
        # A task may take the share of the time left that is its own among all that are still to come.
        each["share"] = 1.0 if tiny else each["weight"] / sum(later["weight"] for later in tasks[position:])
    return tasks


def run(tasks: Sequence[Task], report: Report, *, end: float, tiny: bool) -> None:
    """Runs tasks, neighbours of one framework in one process, until all are done or the time is over.

    Args:
        tasks: From `plan`.
        report: Takes the rows.
        end: When everything has to be over, by `time.time`.
        tiny: Whether networks and data are tiny.
    """
    rest = list(tasks)
    while rest:
        _, neighbours = next(groupby(rest, key=itemgetter("framework")))
        together = list(neighbours)
        if end - time.time() < (1.0 if tiny else _START_SECONDS) + together[0]["needs_seconds"]:
            for task in together:
                report.add(empty_row(task, "skipped", "the time is over"))
            rest = rest[len(together) :]
            continue
        begun, reason = _run_process(together, report, end=end, tiny=tiny)
        # What a task that broke off has measured stays; those behind it get a new process.
        if reason is not None:
            status = "skipped" if time.time() >= end - 1 else "failed"
            report.add(empty_row(together[max(begun, 1) - 1], status, reason))
        rest = rest[max(begun, 1) :]


def empty_row(task: Task, status: str, reason: str, *, case: str | None = None, batch: int | None = None) -> Row:
    """Returns the row of what was not measured."""
    named = {key: task[key] for key in ("task", "model", "framework")}
    return {**named, "case": case, "batch": batch, "status": status, "reason": reason}


def _run_process(tasks: Sequence[Task], report: Report, *, end: float, tiny: bool) -> tuple[int, str | None]:
    """Runs tasks in a process; returns how many were begun, and why it broke off, or None where all were finished."""
    order = {"tasks": list(tasks), "end": end, "tiny": tiny}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    begun, limit, reason = 0, min(end, time.time() + 120), None
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, str(_ROWS), json.dumps(order)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            # Of its own, so that what it starts ends with it.
            process_group=0,
        )
        assert process.stdout is not None
        lines = _lines_of(process.stdout)
        try:
            while (line := lines.get(timeout=max(limit - time.time(), 0.01))) is not None:
                message = json.loads(line)
                if "begin" not in message:
                    report.add(message)
                    continue
                task, begun = tasks[message["begin"]], message["begin"] + 1
                share = (end - time.time()) * task["share"]
                limit = min(end, time.time() + _PATIENCE * share + _GRACE_SECONDS)
            reason = _failure(process, errors)
        except queue.Empty:
            reason = "the time is over" if time.time() >= end - 1 else f"no row for {_PATIENCE} times its time"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return begun, reason


def _lines_of(stream: IO[bytes]) -> "queue.Queue[bytes | None]":
    """Returns where the lines of a stream arrive, and None behind the last one."""
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        with stream:
            for line in stream:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _failure(process: subprocess.Popen[bytes], errors: IO[bytes]) -> str | None:
    """Returns why a process that has nothing more to tell has failed, or None if it has not."""
    if not process.wait(timeout=60):
        return None
    errors.seek(0)
    said = errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return f"the process ended with {process.returncode}: {said[-1][:200]}"


def circumstances(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns when, where, by which command and with which versions the run is made."""
    from jaxsep.environment import processor, versions

    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    cards = None
    if shutil.which(query[0]):
        cards = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.orig_argv),
        "cards": cards,
        "processor": processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "versions": versions(["torch", "triton", "optax", "jax-cuda13-plugin", "jax-cuda12-plugin"]),
        "minutes": arguments.minutes,
        "models": arguments.models,
        "tiny": arguments.tiny,
    }


def main() -> int:
    """Measures what the command line asks for.

    Returns:
        The exit status: 1 where a row failed for another reason than memory or time.
    """
    started = time.time()
    parser = argparse.ArgumentParser(description="Measures jaxsep on a GPU, beside PyTorch.")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "gpu.json", help="JSON file to write")
    parser.add_argument("--minutes", type=float, default=8, help="after which it has ended by itself (default 8)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which networks")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and data, for a CPU; no torch.compile")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    report = Report(arguments.output, circumstances(arguments))
    tasks = plan(arguments.models, tiny=arguments.tiny)
    run(tasks, report, end=started + 60 * arguments.minutes - 1, tiny=arguments.tiny)
    report.write(complete=True)
    print(f"\n{report.table()}\n\n{arguments.output}: {len(report.rows)} rows, {time.time() - started:.0f} s")
    return int(any(row["status"] == "failed" for row in report.rows))


if __name__ == "__main__":
    sys.exit(main())
