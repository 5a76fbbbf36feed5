"""What the command line sets for its process, and the library never does: the compilation cache, the device, memory."""

import os
from enum import StrEnum
from typing import TYPE_CHECKING

from jaxsep.environment import cache_directory, compilation_key
from jaxsep.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import jax

    from jaxsep.separation.programs import ProgramStore


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

    directory = cache_directory() / "compiled" / compilation_key()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # without a cache, runs only start more slowly
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
    return ProgramStore(cache_directory() / "programs" / compilation_key())


def choose_device(kind: DeviceKind) -> "jax.Device":
    """Returns the device to run on.

    Args:
        kind: What was asked for.

    Raises:
        ConfigError: If there is no such device: it never falls back to another one in silence.
    """
    # Beside other programs on one card, taking most of its memory beforehand is rude.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    if kind is DeviceKind.cpu:
        jax.config.update("jax_platforms", "cpu")
    try:
        return jax.devices(None if kind is DeviceKind.auto else kind.value)[0]
    except RuntimeError as error:
        try:
            installed = ", ".join(sorted({device.platform for device in jax.devices()}))
        except RuntimeError:  # JAX_PLATFORMS names what is not here
            raise ConfigError(f"JAX finds no device: {str(error).splitlines()[0]}.") from None
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
    from pathlib import Path

    from jaxsep.cli.models import pull_visibly
    from jaxsep.weights.catalogue import find_entry
    from jaxsep.weights.pretrained import is_present, resolve
    from jaxsep.weights.runs import choose_checkpoint, is_run

    if checkpoint is not None:
        run = Path(name_or_path).expanduser()
        if not is_run(run):
            raise ConfigError(f"--checkpoint picks one of a training run's, and '{name_or_path}' is none.")
        try:
            return choose_checkpoint(run, checkpoint)
        except CheckpointError as error:
            raise ConfigError(str(error)) from None

    if find_entry(name_or_path) is not None and not is_present(name_or_path):
        return pull_visibly(name_or_path, quiet=quiet)
    try:
        return resolve(name_or_path)
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
