"""The folder of a run: whose it is, which config it has, and that no other process trains in it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from jaxsep.errors import ConfigError
from jaxsep.weights.runs import CHECKPOINTS
from train.config import CHANGEABLE, RunConfig, differences

CONFIG = "config.json"


@contextmanager
def open_workdir(workdir: Path, config: RunConfig) -> Iterator[None]:
    """Makes or opens the folder of a run and keeps it for this process.

    The config is written down, as it is resolved; process 0 does so for all.

    Args:
        workdir: The folder.
        config: The run's config.

    Raises:
        ConfigError: It holds something else, a run of another config, or a run that is going on.
    """
    import filelock

    if jax.process_index() != 0:
        yield
        return
    path = workdir / CONFIG
    check_workdir(workdir, config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(workdir / ".lock", timeout=0):
            _check_config(workdir, config)  # once more: now nobody else changes it
            temporary = path.with_name(f".{CONFIG}")
            temporary.write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
            temporary.replace(path)
            yield
    except filelock.Timeout:
        raise ConfigError(
            f"Another process is training in {workdir}; wait for it, or give another --workdir."
        ) from None
    except OSError as error:
        raise ConfigError(f"{workdir} cannot be written: {error.strerror or error}.") from None


def check_workdir(workdir: Path, config: RunConfig) -> None:
    """Refuses the folder of another run; changes nothing.

    Args:
        workdir: The folder, which need not be there.
        config: The run's config.

    Raises:
        ConfigError: It holds something else, or a run of another config, or cannot be looked at.
    """
    path = workdir / CONFIG
    try:
        if workdir.exists() and (not workdir.is_dir() or (any(workdir.iterdir()) and not path.is_file())):
            raise ConfigError(f"{workdir} holds something that is no run of jaxsep's; give another --workdir.")
        _check_config(workdir, config)
    except OSError as error:
        raise ConfigError(f"{workdir} cannot be read: {error.strerror or error}.") from None


def _holds_checkpoints(workdir: Path) -> bool:
    folder = workdir / CHECKPOINTS
    return folder.is_dir() and any(each.name.isdecimal() for each in folder.iterdir())


def _check_config(workdir: Path, config: RunConfig) -> None:
    path = workdir / CONFIG
    # Where nothing was saved there is nothing to go on with: a start that failed may be mended.
    if not path.is_file() or not _holds_checkpoints(workdir):
        return
    try:
        before = RunConfig.parse(json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}; give another --workdir.") from None
    if changed := differences(before, config):
        raise ConfigError(
            f"The run in {path.parent} has another config ({', '.join(changed)}); give another --workdir, or change "
            f"only {', '.join(CHANGEABLE)}."
        )
