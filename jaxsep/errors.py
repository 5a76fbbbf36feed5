"""Every error that jaxsep raises on purpose: one sentence with what was got, the rule, and what to do.

All derive from `JaxsepError`, so that a program can catch one class and print its message.
"""

import difflib
import os
from collections.abc import Iterable


class JaxsepError(Exception):
    """Base of all errors that jaxsep raises on purpose."""


class ConfigError(JaxsepError):
    """A config, model spec or option holds a value that is not allowed."""


class AudioError(JaxsepError):
    """An audio file or array cannot be read, written or used."""


class CheckpointError(JaxsepError):
    """Weights cannot be read, do not match their model, or fail their hash."""


class SeparationError(JaxsepError):
    """A separation went wrong while it ran."""


class SeparationAborted(JaxsepError):
    """The progress callback asked for a separation to stop."""


def in_a_sentence(error: BaseException) -> str:
    """Returns what went wrong as the one sentence that a command prints.

    Args:
        error: One of ours, or what the system said to a call.
    """
    if isinstance(error, JaxsepError):
        return str(error)
    if is_lack_of_memory(error):
        return "There is not enough memory; free some, or raise the limits on it and on threads."
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return f"{reason}." if error.filename is None else f"'{os.fsdecode(error.filename)}': {reason}."
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory for something, or for a library or a thread."""
    lacking = ("failed to map segment", "annot allocate memory", "can't start new thread")
    return isinstance(error, MemoryError) or (
        isinstance(error, ImportError | RuntimeError) and any(words in str(error) for words in lacking)
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean ...?' with the known names closest to `name`, or all known names.

    Args:
        name: What was asked for.
        known: The names that exist.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f" Did you mean {' or '.join(repr(match) for match in close)}?"
    return f" Known: {', '.join(known)}."
