"""What is looked at before a run, but for its tracks: that it can be made on these devices, in this folder."""

import math
import shutil
from pathlib import Path

from jaxsep.errors import ConfigError
from jaxsep.training.optimizer import frozen_parameters
from jaxsep.weights.runs import CHECKPOINTS
from jaxsep.weights.tree import expected_shapes, unflatten
from train.config import RunConfig
from train.parallel import check_batch_size
from train.problems import Problems
from train.program import check_step, loaded_variables, state_bytes
from train.workdir import check_workdir
from train.writers import check_tensorboard


def check_run(config: RunConfig, workdir: Path, problems: Problems, *, devices: int, thorough: bool) -> None:
    """Looks at all that can be known before anything is computed.

    Args:
        config: The run's config.
        workdir: The run's folder, which need not be there; nothing is changed in it.
        problems: What is wrong is put aside there.
        devices: Number of devices of all hosts.
        thorough: Whether a step is traced, which takes seconds for large networks.
    """
    with problems.noted():
        check_batch_size(config.training.batch_size, devices=devices, accumulation=config.training.accumulation)
    with problems.noted():
        check_workdir(workdir, config)
    with problems.noted():
        loaded_variables(config)
    with problems.noted():
        frozen_parameters(unflatten(expected_shapes(config.model))["params"], config.optimizer.frozen)
    with problems.noted():
        check_space(config, workdir)
    if config.logging.tensorboard:
        with problems.noted():
            check_tensorboard()
    if thorough:
        with problems.noted():
            check_step(config)


def check_space(config: RunConfig, workdir: Path) -> None:
    """Refuses a run whose checkpoints will not find room.

    Args:
        config: The run's config.
        workdir: The run's folder, which need not be there. What it holds already takes no more room.

    Raises:
        ConfigError: They will not.
    """
    folder = workdir.absolute() / CHECKPOINTS
    try:
        there = sum(each.name.isdecimal() for each in folder.iterdir()) if folder.is_dir() else 0
        disk = next(each for each in (folder, *folder.parents) if each.is_dir())
        free = shutil.disk_usage(disk).free
    except OSError:  # of a folder that cannot be looked at, `check_workdir` tells
        return
    count, size = max(most_checkpoints(config) - there, 1), state_bytes(config)
    if count * size > free:
        raise ConfigError(
            f"The checkpoints of this run will take {count * size / 1e6:.0f} MB more ({count} of {size / 1e6:.0f} MB), "
            f"and {free / 1e6:.0f} MB are free on the disk of {workdir}; free some, give another --workdir, or lower "
            "checkpoints.keep_latest and checkpoints.keep_best."
        )


def most_checkpoints(config: RunConfig) -> int:
    """Returns how many checkpoints a run has at a time: those that are kept, and the one that is being written."""
    steps, kept, validation = config.training.steps, config.checkpoints, config.validation.every_steps
    if validation is None:  # without scores there is no best one
        return min(kept.keep_latest + 1, -(-steps // kept.every_steps))
    # Every validated step is saved, and the last.
    saved = steps // kept.every_steps + -(-steps // validation) - steps // math.lcm(kept.every_steps, validation)
    return min(kept.keep_latest + kept.keep_best + 1, saved)
