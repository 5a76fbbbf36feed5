"""Compiled programs kept whole on disk, so that a later process neither traces nor lowers nor compiles them again.

JAX's own compilation cache keeps what the compiler gives and finds it by what was lowered; of a command that separates
one song, tracing and lowering are 0.3 to 0.7 s. Here a program is found by its name and by all that it was made from.
"""

import hashlib
import logging
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import jax
from jax.experimental import serialize_executable

from jaxsep import unfinished
from jaxsep.environment import give_back_free_memory

logger = logging.getLogger(__name__)

# What JAX's monitoring is told, as its own cache tells it.
HIT_EVENT = "/jaxsep/programs/hits"
MISS_EVENT = "/jaxsep/programs/misses"

# The ones used last that stay; each is a megabyte or two.
_KEPT = 64

_DIGEST_BYTES = hashlib.sha256().digest_size


class ProgramStore:
    """A directory of compiled programs.

    What it holds is run as this user, machine code as in JAX's own cache, and it is kept in pickles, by
    `jax.experimental.serialize_executable`. So a directory that anyone else can write to is not used at all.
    """

    def __init__(self, directory: Path) -> None:
        """Makes the directory if it is not there, for this user alone.

        Args:
            directory: One for each version of jaxlib and processor: see `jaxsep.environment.compilation_key`.
        """
        self._directory = directory
        self._usable = _make_private(directory)

    def get(self, name: str, compile: Callable[[], jax.stages.Compiled], *, device: jax.Device) -> jax.stages.Compiled:
        """Returns the program that is kept under a name, or compiles it and keeps it.

        Args:
            name: All that the program depends on beside the source code of jaxsep, the versions of what it is made
                with, JAX's settings and the device: these are added here.
            compile: Compiles it.
            device: Where it runs.
        """
        # What JAX's own cache gives cannot be kept: XLA's programs for CPUs, serialised again, lack their functions.
        if not self._usable or jax.config.values["jax_compilation_cache_dir"] is not None:
            return compile()
        path = self._directory / f"{hashlib.sha256(f'{name} {_made_with(device)}'.encode()).hexdigest()}.program"
        program = _read(path, device)
        jax.monitoring.record_event(MISS_EVENT if program is None else HIT_EVENT)
        if program is None:
            program = compile()
            self._keep(path, program)
            give_back_free_memory()
        return program

    def _keep(self, path: Path, program: jax.stages.Compiled) -> None:
        try:
            content = pickle.dumps(serialize_executable.serialize(program))
            # A name that nobody else knows until it is complete, and readable for this user alone.
            handle, temporary = tempfile.mkstemp(dir=self._directory)
            with unfinished.watched(Path(temporary)):
                try:
                    with open(handle, "wb") as file:
                        file.write(hashlib.sha256(content).digest() + content)
                    os.replace(temporary, path)
                except BaseException:
                    os.unlink(temporary)
                    raise
            by_last_use = sorted(self._directory.glob("*.program"), key=lambda kept: kept.stat().st_mtime)
            for kept in by_last_use[:-_KEPT]:
                kept.unlink()
        except OSError as error:  # a full disk, or one that cannot be written: the next run starts more slowly
            logger.debug("a program is not kept: %s", error)
        except (ValueError, NotImplementedError, pickle.PicklingError, jax.errors.JaxRuntimeError) as error:
            logger.warning("this version of JAX cannot keep a program, and every run compiles it: %s", error)


def _make_private(directory: Path) -> bool:
    """Makes a directory; returns whether it is there and no one but this user can write to it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError:
        return False
    # On Windows the cache lies in the user's profile, and there is no such mode.
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


def _read(path: Path, device: jax.Device) -> jax.stages.Compiled | None:
    try:
        stored = path.read_bytes()
        digest, content = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            return None
        serialised, in_tree, out_tree = pickle.loads(content)
        program = serialize_executable.deserialize_and_load(
            serialised, in_tree, out_tree, backend=device.client, execution_devices=[device]
        )
    except FileNotFoundError:
        return None
    except Exception as error:
        # An unpickler fails in whatever way the bytes ask for; these are whole, and made by the same versions.
        logger.warning("a program on disk cannot be read and is compiled anew: %s: %s", path, error)
        return None
    with suppress(OSError):
        os.utime(path)
    return program


def _made_with(device: jax.Device) -> str:
    """Returns what a program depends on beside its name, as text."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [metadata.version(package) for package in ("jax", "jaxlib", "flax", "numpy")]
    flags = sorted((name, value) for name, value in os.environ.items() if name.startswith("XLA_"))
    settings = sorted((name, repr(value)) for name, value in jax.config.values.items())
    where = (device.platform, device.device_kind, device.id, device.client.platform_version, cores)
    return repr((_source_digest(), sys.version_info[:2], versions, flags, settings, where))


@cache
def _source_digest() -> str:
    """Returns the sha256 of jaxsep's source code: which of it makes a program is not for a list to say."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package)} {len(content)} ".encode() + content)
    return digest.hexdigest()
