"""How Ctrl-C, SIGTERM and a terminal that closes end a run: at once, with nothing half-written left.

No exception is raised: a signal comes between any two instructions, and where JAX or a finalizer has called Python, an
exception is lost or ends the process with a crash; while XLA compiles, Python does not run at all. Instead the signal's
number comes down a socket to a thread that takes away what is unfinished and ends the process.
"""

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from jaxsep import unfinished

INTERRUPTED = 130
# Ctrl-C, `kill`, a terminal or connection that closes, a limit on processor time; Windows has the first two.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU")
ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_SHOW_CURSOR = b"\x1b[?25h"


def end_on_signals() -> None:
    """Handles signals that end a run from now on, save where the caller of the process has them ignored (nohup)."""
    numbers = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    if not numbers:
        return
    arriving, leaving = socket.socketpair()
    leaving.setblocking(False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(leaving.fileno(), warn_on_full_buffer=False)
    # Both ends live as long as the thread.
    threading.Thread(target=_wait, args=(arriving, leaving, set(numbers)), name="signals", daemon=True).start()


def _wait(arriving: socket.socket, leaving: socket.socket, numbers: set[int]) -> None:
    while arriving.recv(1)[0] not in numbers:
        continue
    unfinished.changing_names.acquire()
    unfinished.discard_all()
    # Not by print: the interrupted thread may hold the stream's lock.
    with suppress(OSError):  # a terminal that is gone
        if os.isatty(2):
            os.write(2, b"\r" + _SHOW_CURSOR)  # the progress bar hides it
        os.write(2, b"jaxsep: interrupted\n")
    os._exit(INTERRUPTED)


def end_at_once(status: int) -> NoReturn:
    """Ends the process without taking the interpreter down.

    XLA's threads may be at work after an error, and taking the interpreter down under them crashes the process; after a
    run it takes 0.2 s. What is to be cleaned up has been by now.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a closed pipe or a closed stream
            continue
    os._exit(status)
