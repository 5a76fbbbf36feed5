"""What is looked at before a run, but for its tracks: that it can be made on these devices, in this folder."""

from pathlib import Path

from jaxsep.training.optimizer import frozen_parameters
from jaxsep.weights.tree import expected_shapes, unflatten
from train.config import RunConfig
from train.parallel import check_batch_size
from train.problems import Problems
from train.program import check_step, loaded_variables
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
    if config.logging.tensorboard:
        with problems.noted():
            check_tensorboard()
    if thorough:
        with problems.noted():
            check_step(config)
