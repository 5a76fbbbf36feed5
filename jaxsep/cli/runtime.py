"""What the command line sets for its process, and the library never does: the compilation cache, the device, memory."""

import hashlib
import importlib
import os
import re
import subprocess
import sys
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from jaxsep.environment import cache_directory, compilation_key, expand_home
from jaxsep.errors import CheckpointError, ConfigError, in_a_sentence, is_lack_of_memory

if TYPE_CHECKING:
    from pathlib import Path

    import jax

    from jaxsep.separation.programs import ProgramStore


# What XLA says before it ends a process: its source and line, and a sentence.
_XLA_ENDS = re.compile(r"^[EF]\d{4} .*?\] (.+)$", re.MULTILINE)


class DeviceKind(StrEnum):
    """Where to run; auto takes what JAX finds fastest."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"
    tpu = "tpu"


class CompilationCounter:
    """Counts the programs that were found on disk, in JAX's compilation cache or in ours, and those that were not.

    Attributes:
        hits: Programs read.
        misses: Programs compiled.
    """

    def __init__(self) -> None:
        import jax

        from jaxsep.separation.programs import HIT_EVENT, MISS_EVENT

        self.hits = 0
        self.misses = 0
        self._hit_events = ("/jax/compilation_cache/cache_hits", HIT_EVENT)
        self._miss_events = ("/jax/compilation_cache/cache_misses", MISS_EVENT)
        jax.monitoring.register_event_listener(self._count)

    def _count(self, event: str, **_: object) -> None:
        self.hits += event in self._hit_events
        self.misses += event in self._miss_events


def use_compilation_cache() -> None:
    """Keeps what is compiled on disk, so that the second run of a command compiles nothing.

    JAX by default stores only what took more than a second to compile; all of ours is stored.
    """
    import jax

    cache = cache_directory()
    if cache is None:
        return  # without a cache, runs only start more slowly
    directory = cache / "compiled" / compilation_key()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def keep_programs(device: "jax.Device") -> "ProgramStore | None":
    """Keeps the programs of a `Separator` on disk, so that the second run of a command compiles nothing.

    Args:
        device: Where it runs. On accelerators, where whole programs have not been tried, JAX's compilation cache keeps
            them, and the second run traces and lowers them again.

    Returns:
        What the `Separator` is to be given.
    """
    from jaxsep.separation.programs import ProgramStore

    if device.platform != "cpu":
        use_compilation_cache()
        return None
    cache = cache_directory()
    return None if cache is None else ProgramStore(cache / "programs" / compilation_key())


def check_working_directory() -> None:
    """Refuses to work where relative paths mean nothing.

    Raises:
        ConfigError: The working directory was deleted, or cannot be reached.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(f"The working directory is gone ({error.strerror}); change to another one.") from None


def import_jax() -> None:
    """Imports JAX, which reads its settings from the environment then.

    Raises:
        ConfigError: It does not take a value that the environment sets.
    """
    # Beside other programs on one card, taking most of its memory beforehand is rude.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if os.environ.get("XLA_FLAGS") and "jax" not in sys.modules:
        _check_flags_of_xla()
    try:
        for name in ("numpy", "jax"):  # where NumPy cannot be loaded by JAX, a traceback is printed
            importlib.import_module(name)
    except Exception as error:  # of any kind: what the environment sets may fail anywhere
        if is_lack_of_memory(error):
            raise MemoryError from None
        raise _no_start(in_a_sentence(error)) from None


def _check_flags_of_xla() -> None:
    """Refuses flags that XLA does not take: it ends the process for them, so another one tries, in half a second.

    Flags that it took are noted in the cache, but not files of flags.
    """
    flags, cache = os.environ["XLA_FLAGS"], cache_directory()
    digest = hashlib.sha256(f"{compilation_key()} {flags}".encode(errors="surrogateescape")).hexdigest()
    taken = None if cache is None or not flags.startswith("--") else cache / "flags" / digest
    if taken is not None and os.path.exists(taken):
        return
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    tried = subprocess.run(
        command,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if tried.returncode and (said := _XLA_ENDS.search(tried.stderr)):
        raise _no_start(said[1])
    if taken is not None and tried.returncode == 0:
        with suppress(OSError):
            taken.parent.mkdir(parents=True, exist_ok=True)
            taken.touch()


def start_jax(platform: str | None = None) -> None:
    """Imports JAX and finds its devices, before anything is worked on.

    Args:
        platform: The only one that is looked for; None for what the environment says.

    Raises:
        ConfigError: It does not start as the environment sets it.
    """
    import_jax()
    import jax

    try:
        if platform is not None:
            jax.config.update("jax_platforms", platform)
        jax.devices()
    except Exception as error:  # of any kind: assertions, too
        raise _no_start(in_a_sentence(error)) from None
    if jax.config.values["jax_disable_jit"]:
        raise ConfigError("JAX_DISABLE_JIT is set, and jaxsep runs nothing but compiled programs; unset it.")


def is_jax_set_by_the_environment() -> bool:
    """Returns whether a variable of the environment is a setting of JAX's or XLA's: importing it may fail then."""
    return bool(_settings())


def _settings() -> dict[str, str]:
    names = sorted(name for name in os.environ if name.startswith("JAX_") or name == "XLA_FLAGS")
    return {name: os.environ[name] for name in names}


def _no_start(reason: str) -> ConfigError:
    settings = [f"{name}='{value}'" for name, value in _settings().items()]
    told = f"; the environment sets {', '.join(settings)}: change or unset what is wrong" if settings else ""
    return ConfigError(f"JAX does not start ({reason.removesuffix('.')}){told}.")


def choose_device(kind: DeviceKind) -> "jax.Device":
    """Returns the device to run on.

    Args:
        kind: What was asked for.

    Raises:
        ConfigError: If there is no such device: it never falls back to another one in silence. Or JAX does not start.
    """
    start_jax("cpu" if kind is DeviceKind.cpu else None)
    import jax

    try:
        return jax.devices(None if kind is DeviceKind.auto else kind.value)[0]
    except RuntimeError:
        installed = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise ConfigError(
            f"There is no {kind.value} that JAX can use here (it finds: {installed}); "
            "install the extra for it, such as jaxsep[cuda12], or use --device auto."
        ) from None


def find_model(name_or_path: str, checkpoint: str | None = None, *, quiet: bool = False) -> "Path":
    """Returns the file or folder of a model; pulls one of the catalogue that is not here, and says so unless quiet.

    Args:
        name_or_path: See `jaxsep.weights.pretrained.resolve`.
        checkpoint: Which one of a training run: 'best', 'latest' or a step; None for what is no run, or its best.
        quiet: Whether nothing is shown of a pull.

    Raises:
        ConfigError: There is none: the command line names what does not exist.
        CheckpointError: It cannot be pulled.
    """
    from jaxsep.cli.models import pull_visibly
    from jaxsep.weights.catalogue import find_entry
    from jaxsep.weights.hub import SCHEME
    from jaxsep.weights.pretrained import is_present, resolve
    from jaxsep.weights.runs import choose_checkpoint, is_run

    if checkpoint is not None:
        run = expand_home(name_or_path)
        if not is_run(run):
            raise ConfigError(f"--checkpoint picks one of a training run's, and '{name_or_path}' is none.")
        try:
            return choose_checkpoint(run, checkpoint)
        except CheckpointError as error:
            raise ConfigError(str(error)) from None

    is_published = find_entry(name_or_path) is not None or name_or_path.startswith(SCHEME)
    if is_published and not is_present(name_or_path):
        return pull_visibly(name_or_path, quiet=quiet)
    try:
        return resolve(name_or_path)
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
