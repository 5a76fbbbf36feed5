"""How Ctrl-C and SIGTERM end a run: as KeyboardInterrupt, once, surely, with time to clean up, and then at once."""

import _thread
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 130
# Signals that pass while the first one's cleaning up goes on: Ctrl-C is pressed twice, and supervisors send several.
IGNORED_REPETITIONS = 2
_AGAIN_SECONDS = 0.01


class Interrupt:
    """Turns the first signal into KeyboardInterrupt and lets the next ones pass; a fourth ends the process.

    A signal comes between any two instructions, and in some places what it raises is printed and forgotten: in JAX's
    callback of the garbage collector, and in all finalizers. There it is raised again a moment later.
    """

    def __init__(self) -> None:
        self._received = 0
        self._signal = signal.SIGINT

    def install(self) -> None:
        """Handles SIGINT and SIGTERM from now on, save where the caller of the process has them ignored (nohup)."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._handle)
        sys.unraisablehook = self._raised_in_vain

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._received += 1
        self._signal = signal.Signals(signum)
        if self._received == 1:
            raise KeyboardInterrupt
        if self._received > 1 + IGNORED_REPETITIONS:
            os._exit(INTERRUPTED)

    def _raised_in_vain(self, unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(unraisable)
            return
        self._received = 0
        threading.Timer(_AGAIN_SECONDS, _send_to_main_thread, [self._signal]).start()


def _send_to_main_thread(signum: signal.Signals) -> None:
    main_thread = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main_thread is not None:
        signal.pthread_kill(main_thread, signum)  # wakes it, too, where it waits
    else:
        _thread.interrupt_main(signal.Signals(signum))


def end_at_once(status: int) -> NoReturn:
    """Ends the process without taking the interpreter down.

    XLA's threads may be compiling or computing after an interruption, and taking the interpreter down under them
    crashes the process; after a run it takes 0.2 s. What is to be cleaned up has been by now.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a closed pipe or a closed stream
            continue
    os._exit(status)
