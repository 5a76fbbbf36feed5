"""What a run depends on and reports: versions, processor, memory, cache directories. Imports neither jax nor flax.

What `jaxsep --help` does not need is imported where it is used.
"""

import ctypes
import functools
import hashlib
import os
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# XLA takes and gives back the memory of a program's arrays in every call on CPUs: in pages of 4 KiB that is up to a
# tenth of the time of a song, and more of a training step. What a thread gives back stays with its arena, so that two
# arenas, which are as fast as one for each thread, hold less.
_MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=2"

PACKAGES = ("jaxsep", "jax", "jaxlib", "flax", "numpy", "soundfile", "soxr", "av", "safetensors", "orbax-checkpoint")


def versions(others: Iterable[str] = ()) -> dict[str, str]:
    """Returns the version of Python and of every package that decides about the result; absent ones are left out.

    Args:
        others: Packages beside `PACKAGES`.
    """
    from importlib import metadata

    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *others):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def processors() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def processor() -> str:
    """Returns the processor's name as the system gives it."""
    return _cpu_field("model name") or platform.processor() or platform.machine()


def compilation_key() -> str:
    """Returns what compiled programs depend on beside their source: jaxlib's version and the processor's features.

    Code compiled for one processor may crash on another, so that each combination has a cache directory of its own.
    """
    from importlib import metadata

    features = _cpu_field("flags") or _cpu_field("Features") or platform.processor()
    digest = hashlib.sha256(f"{platform.machine()} {processor()} {features}".encode()).hexdigest()[:12]
    return f"jaxlib-{metadata.version('jaxlib')}-{digest}"


def cache_directory() -> Path | None:
    """Returns where downloads and compiled programs live: $JAXSEP_CACHE, $XDG_CACHE_HOME/jaxsep or ~/.cache/jaxsep.

    Returns:
        None where that lies in a home directory and there is none: a container's user may have no entry in any list.
    """
    named = os.environ.get("JAXSEP_CACHE")
    if not named:
        shared = os.environ.get("XDG_CACHE_HOME", "")
        # The specification of XDG has relative paths ignored.
        named = os.path.join(shared if os.path.isabs(shared) else "~/.cache", "jaxsep")
    found = expand_home(named)
    return None if str(found).startswith("~") else found


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Returns a path with the home directory for a leading `~`; as it is where there is no such home."""
    return Path(os.path.expanduser(path))


def open_standard_descriptors() -> None:
    """Has standard input, output and error lead to nowhere where the process was started without them.

    Otherwise the next file that is opened has their number, and messages are written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given away, and those below it are taken by now.
            os.open(os.devnull, os.O_RDWR)


def is_offline() -> bool:
    """Whether $JAXSEP_OFFLINE forbids the network: set to anything but nothing, 0, no or false."""
    return os.environ.get("JAXSEP_OFFLINE", "").lower() not in ("", "0", "no", "false")


def restart_with_tuned_malloc() -> None:
    """Starts this process anew with a C library that asks for huge pages, which it can only be told before its start.

    Nothing is done off Linux, nor where Python does not know its own program (it is a part of another one), nor where
    $GLIBC_TUNABLES is set: what the user has told the library holds.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ or not sys.executable:
        return
    with suppress(OSError):  # a system that forbids it
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "GLIBC_TUNABLES": _MALLOC})


def peak_memory_bytes() -> int | None:
    """Returns the most memory that this process has held so far, in bytes; None where the system does not tell."""
    try:
        # What getrusage tells on Linux is no less than what the process that started this one held then.
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_field(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == name), "")


def give_back_free_memory() -> None:
    """Gives memory that is free within this process back to the system, where the C library is one that keeps it.

    XLA's compiler takes hundreds of megabytes for a large network, and glibc keeps them when they are free.
    """
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return
