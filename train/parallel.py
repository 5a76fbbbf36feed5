"""Many devices and many hosts: the step replicated by `jax.pmap`, batches sharded. No other file says pmap.

The step itself (`jaxsep.training.step`) knows the name of an axis and nothing else; moving to another kind of
parallelism is a change of this file alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsep.errors import ConfigError
from jaxsep.training.objective import Batch
from jaxsep.training.state import TrainState
from jaxsep.training.step import Metrics

# The axis over which gradients, metrics and batch statistics are averaged; modules get it as `axis_name`.
AXIS = "device"

# How soon the others notice that a process is gone, in seconds.
HEARTBEAT_SECONDS = 10

Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


def replicate_step(step: Callable[..., tuple[TrainState, Metrics]], devices: list[jax.Device] | None = None) -> Step:
    """Returns the step over all devices of all hosts.

    State and key are the same everywhere and have no device axis; the batch has one, from `shard`. The state that goes
    in is given away.

    Args:
        step: `train_step` with its options bound but for `axis_name`.
        devices: Those of all hosts; None for all that JAX finds.
    """
    return jax.pmap(
        partial(step, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )


def shard(batch: Any, devices: int) -> Any:
    """Returns the batch (a tree of host arrays) with a leading device axis: (batch, ...) to (device, share, ...).

    Args:
        batch: This host's examples.
        devices: Of this host.
    """
    return jax.tree.map(lambda leaf: np.reshape(leaf, (devices, leaf.shape[0] // devices, *leaf.shape[1:])), batch)


def start_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins this process with the others of the run; called before any device is used.

    Args:
        coordinator: 'host:port' of process 0; None where the cluster tells (Slurm, TPU pods).
        processes: How many there are; None where the cluster tells.
        process: Which of them this is, from 0; None where the cluster tells.

    Raises:
        ConfigError: They do not find each other.
    """
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is the run's own affair
    try:
        jax.distributed.initialize(
            coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, initialization_timeout=120
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"The processes of this run do not find each other: {str(error).splitlines()[0]}.") from None


def replicate(tree: Any, devices: list[jax.Device] | None = None) -> Any:
    """Returns the tree on every device of this host, as the step gives it back, so that it compiles once."""
    mesh = Mesh(np.asarray(devices or jax.devices()), (AXIS,))
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def on_any_process(flag: bool) -> bool:
    """Whether the flag is set on any process; all of them ask at the same step."""
    return bool(gather(np.asarray(flag)).any())


def gather(values: np.ndarray) -> np.ndarray:
    """Returns the values of all processes with a leading axis; all of them ask at the same step."""
    if jax.process_count() == 1:
        return values[None]
    return np.asarray(multihost_utils.process_allgather(values))


def check_batch_size(batch_size: int, *, devices: int, accumulation: int) -> None:
    """Refuses global batches that do not fall into equal shares.

    Args:
        batch_size: Examples in one step, over all devices of all hosts.
        devices: Of all hosts.
        accumulation: Parts into which each device divides its share.

    Raises:
        ConfigError: They do not.
    """
    if batch_size % (devices * accumulation):
        raise ConfigError(
            f"A batch of {batch_size} does not fall into equal parts for {devices} devices and {accumulation} "
            f"accumulated parts; make it a multiple of {devices * accumulation}."
        )
