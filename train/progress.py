"""What a terminal shows of a run while it goes: a bar of its steps, and how long it will take."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jaxsep.cli.streams import console as standard_console


class RunProgress:
    """A bar of steps. Shows nothing where there is no terminal."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        """Takes a bar that is shown; see `shown_progress`."""
        self._progress, self._task = progress, task

    def advance(self, step: int) -> None:
        """Shows that a step is made."""
        self._progress.update(self._task, completed=step)

    def tell(self, row: dict[str, Any]) -> None:
        """Shows what a row tells of the loss and of the time that is left."""
        if "loss" in row:
            left = row["timing"]["seconds_left"]
            told = "" if left is None else f"{timedelta(seconds=round(left))} left"
            self._progress.update(self._task, told=f"{told}  loss {number(row['loss'])}")


@contextmanager
def shown_progress(steps: int, console: Console | None = None) -> Iterator[RunProgress]:
    """Shows the bar of a run while the block runs, on standard error where that is a terminal.

    Args:
        steps: Number of steps of the whole run.
        console: Console to show it on instead.
    """
    shown = standard_console(stderr=True) if console is None else console
    columns = (
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(
        *columns,
        console=shown,
        transient=True,
        disable=not shown.is_terminal,
        # Rows go on to standard output where that is a file or a pipe, and above the bar where it is the terminal.
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        yield RunProgress(progress, progress.add_task("", total=steps, told=""))


def number(value: float | None, form: str = ".5g") -> str:
    """Returns a number of a row, which may be missing where it was not finite."""
    return "not finite" if value is None else format(value, form)
