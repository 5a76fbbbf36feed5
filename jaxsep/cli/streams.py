"""Standard output and error of a command: what cannot be written to them ends no run. Imports nothing heavy.

A reader may be gone (`| head`), a disk full, a stream closed. Messages are then lost, and the work goes on; a command
whose text is all that it gives says at its end that it could not be written.
"""

import errno
import io
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class _Descriptor(io.FileIO):
    """A descriptor that takes everything.

    Attributes:
        error: Why it first lost something, or None.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        while self.error is None:
            try:
                written = super().write(data)
            except OSError as error:
                self.error = error
            else:
                if written is not None:
                    return written
                select.select([], [self], [])  # a terminal that others have set not to wait
        return size


def forgive_lost_messages() -> None:
    """Makes standard output and error of this process lose what they cannot write, instead of raising."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        setattr(sys, name, _forgiving(number, getattr(before, "encoding", None) or "utf-8"))


def _forgiving(number: int, encoding: str) -> io.TextIOWrapper:
    descriptor = _Descriptor(number, "w", closefd=False)
    # File names are bytes; not all of them are text in the terminal's encoding.
    return io.TextIOWrapper(
        io.BufferedWriter(descriptor),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=number == 2 or descriptor.isatty(),
    )


@contextmanager
def warnings_unless(quiet: bool) -> Iterator[None]:
    """Keeps what the library logs as a warning to itself where only errors are to be printed.

    Args:
        quiet: Whether that is so.
    """
    logger = logging.getLogger("jaxsep")
    before = logger.level
    if quiet:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def lost_output() -> str | None:
    """Returns why standard output lost something, or None. A reader that has seen enough loses nothing."""
    sys.stdout.flush()
    descriptor = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = getattr(descriptor, "error", None)
    return None if error is None or error.errno == errno.EPIPE else os.strerror(error.errno)


def console(*, stderr: bool = False, quiet: bool = False, width: int | None = None) -> "Console":
    """Returns what tables, lines and bars are shown on.

    FORCE_COLOR and the like may ask for colours in a file; they do not make a terminal of it, on which a bar can move.

    Args:
        stderr: Whether it is standard error, or else standard output.
        quiet: Whether nothing is shown.
        width: Width in characters; None for the terminal's.
    """
    from rich.console import Console

    return Console(
        stderr=stderr,
        quiet=quiet,
        width=width,
        soft_wrap=stderr,
        highlight=False,
        markup=False,
        force_terminal=(sys.stderr if stderr else sys.stdout).isatty(),
    )
