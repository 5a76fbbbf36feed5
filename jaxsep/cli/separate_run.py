"""One run of `jaxsep separate` over planned jobs: progress, and one file's failure that does not stop the rest.

Options are in separate.py; what a run did is told in separate_report.py.
"""

import os
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from jaxsep.cli.separate_report import describe
from jaxsep.cli.streams import console
from jaxsep.errors import JaxsepError

if TYPE_CHECKING:
    from jaxsep.separation import mixtures as library
    from jaxsep.separation.models import AnySeparator
    from jaxsep.separation.outputs import Job, OutputConfig


def run_all(jobs: list["Job"], separator: "AnySeparator", config: "OutputConfig", quiet: bool) -> list[dict[str, Any]]:
    """Runs every job and says what became of each; one that fails does not stop the rest."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from jaxsep.separation.stream import run_jobs

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    shown = console(stderr=True, quiet=quiet)
    results: dict[int, dict[str, Any]] = {}
    pending = []
    for number, job in enumerate(jobs):
        if job.note:
            shown.print(f"note: {job.note}")
        if job.problem is not None:
            print(f"jaxsep: {job.problem}", file=sys.stderr)
            results[number] = {"input": job.name, "status": "failed", "error": job.problem}
        elif job.skipped:
            shown.print(f"{job.name}: skipped, all its stems are there")
            results[number] = {"input": job.name, "status": "skipped"}
        else:
            pending.append(number)
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bars:
        bar = bars.add_task("", total=None, speed="")
        finished = 0
        started, seconds_before = time.perf_counter(), 0.0

        def show(job: "Job", progress: "library.Progress") -> None:
            speed = (seconds_before + progress.done_seconds) / (time.perf_counter() - started)
            name = os.path.basename(job.name)
            if len(pending) > 1:
                name = f"{finished + 1}/{len(pending)} {name}"
            bars.update(
                bar,
                description=name,
                completed=progress.done_seconds,
                total=progress.total_seconds,
                speed=f"{speed:.0f}x real time",
            )

        outcomes = run_jobs((jobs[number] for number in pending), separator, config, progress=show)
        # Closed in any case: what is not finished then goes.
        with closing(outcomes):
            for number, (job, outcome) in zip(pending, outcomes, strict=True):
                finished += 1
                if isinstance(outcome, JaxsepError):
                    results[number] = {"input": job.name, "status": "failed", "error": str(outcome)}
                    bars.stop()
                    print(f"jaxsep: {outcome}", file=sys.stderr)
                    bars.start()
                    continue
                seconds_before += outcome.duration_seconds
                results[number] = describe(job.name, outcome)
                for remark in results[number]["warnings"]:
                    shown.print(f"warning: {remark}")
    return [results[number] for number in range(len(jobs))]
