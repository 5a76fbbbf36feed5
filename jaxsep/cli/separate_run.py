"""One run of `jaxsep separate` over planned jobs: progress, and one file's failure that does not stop the rest.

Options are in separate.py; what a run did is told in separate_report.py.
"""

import sys
import time
from typing import TYPE_CHECKING, Any

from jaxsep.cli.separate_report import describe
from jaxsep.errors import JaxsepError

if TYPE_CHECKING:
    from jaxsep.separation.outputs import Job, OutputConfig
    from jaxsep.separation.separator import Separator


def run_all(jobs: list["Job"], separator: "Separator", config: "OutputConfig", quiet: bool) -> list[dict[str, Any]]:
    """Runs every job and says what became of each; one that fails does not stop the rest."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from jaxsep.separation import separator as library
    from jaxsep.separation.stream import run_job

    results = []
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    console = _console(quiet)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        for job in jobs:
            if job.skipped:
                console.print(f"{job.mixture}: skipped, all its stems exist")
                results.append({"input": str(job.mixture), "status": "skipped"})
                continue
            bar = bars.add_task(job.mixture.name, total=None, speed="")
            started = time.perf_counter()

            def show(progress: library.Progress, bar: Any = bar, started: float = started) -> None:
                speed = progress.done_seconds / (time.perf_counter() - started)
                bars.update(
                    bar, completed=progress.done_seconds, total=progress.total_seconds, speed=f"{speed:.0f}x real time"
                )

            try:
                result = describe(run_job(job, separator, config, progress=show))
            except (JaxsepError, OSError) as error:
                # OSError: the disk is full of what is kept on it between two passes.
                message = str(error) if isinstance(error, JaxsepError) else f"{job.mixture}: {error.strerror or error}."
                result = {"input": str(job.mixture), "status": "failed", "error": message}
                bars.stop()
                print(f"jaxsep: {message}", file=sys.stderr)
                bars.start()
            for remark in result.get("warnings", ()):
                console.print(f"warning: {remark}")
            bars.remove_task(bar)
            results.append(result)
    return results


def _console(quiet: bool) -> Any:
    from rich.console import Console

    return Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False, markup=False)
