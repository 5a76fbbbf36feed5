"""Many devices and many hosts: the step replicated by `jax.pmap`, batches sharded. No other file says pmap.

The step itself (`jaxsep.training.step`) knows the name of an axis and nothing else; moving to another kind of
parallelism is a change of this file alone.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
# How long they are waited for at the start, and how often a process that waits says so.
START_SECONDS, TELL_SECONDS = 120.0, 10.0

logger = logging.getLogger(__name__)

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


def check_coordinator(coordinator: str, *, resolve: Callable[..., Any] = socket.getaddrinfo) -> None:
    """Refuses what is no address of process 0.

    Args:
        coordinator: 'host:port'; an IPv6 address stands in brackets.
        resolve: Looks a host up.

    Raises:
        ConfigError: It is none, or there is no such host.
    """
    host, colon, port = coordinator.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port:
        raise ConfigError(f"'{coordinator}' is no HOST:PORT; give the address of process 0, such as 10.0.0.1:8476.")
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"'{port}' in '{coordinator}' is no port; give a number from 1 to 65535.")
    try:
        resolve(host, int(port))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"There is no host '{host}' ({reason}); give that of process 0.") from None


def start_processes(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    *,
    give_up: Callable[[str], None],
    timeout: float = START_SECONDS,
) -> None:
    """Joins this process with the others of the run; called before any device is used.

    Args:
        coordinator: 'host:port' of process 0; None where the cluster tells (Slurm, TPU pods).
        processes: How many there are; None where the cluster tells.
        process: Which of them this is, from 0; None where the cluster tells.
        give_up: Ends this process with a sentence; called in a thread where the others do not come in time. JAX itself
            would abort it with a trace of its own.
        timeout: Seconds for which they are waited for.

    Raises:
        ConfigError: They do not find each other.
    """
    if coordinator is None:
        whom = "the other processes of this run, where the cluster says that they are"
    elif process == 0:
        _check_free(coordinator)
        whom = f"the other {(processes or 1) - 1} processes of this run to come to {coordinator}; this is process 0"
    else:
        whom = f"process 0 at {coordinator}, and for all {processes} processes of this run; this is process {process}"

    def too_late() -> None:
        give_up(f"The processes of this run do not find each other: after {timeout:.0f} s this one waits for {whom}.")

    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is the run's own affair
    try:
        with waiting_for(whom, timeout=timeout, too_late=too_late):
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                initialization_timeout=int(timeout) + 60,
            )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"The processes of this run do not find each other: {str(error).splitlines()[0]}.") from None


def _check_free(coordinator: str) -> None:
    """Refuses a port on which another program listens: JAX's service would end this process without a word."""
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ConfigError(
            f"Process 0 cannot listen on port {port} ({error.strerror or error}); give another one to all processes."
        ) from None


@contextmanager
def waiting_for(
    whom: str, *, timeout: float = float("inf"), too_late: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Says every ten seconds for whom this process waits, while the block runs.

    Args:
        whom: The others.
        timeout: Seconds after which the block has taken too long.
        too_late: Called then, in a thread.
    """
    over, began = threading.Event(), time.monotonic()

    def say() -> None:
        while not over.wait(min(TELL_SECONDS, max(began + timeout - time.monotonic(), 0))):
            waited = time.monotonic() - began
            if waited >= timeout:
                return too_late()
            logger.info("waiting for %s (%d s so far)", whom, round(waited))

    thread = threading.Thread(target=say, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def waiting_together(what: str) -> AbstractContextManager[None]:
    """Says every ten seconds that this process waits for what all of them do together, while the block runs.

    Args:
        what: What they do.
    """
    count = jax.process_count()
    if count == 1:
        return nullcontext()
    return waiting_for(f"{what}, which takes all {count} processes of this run; this is process {jax.process_index()}")


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
    with waiting_together("a message"):
        return np.asarray(multihost_utils.process_allgather(values))


def check_batch_size(batch_size: int, *, devices: int, accumulation: int) -> None:
    """Refuses global batches that do not fall into equal shares.

    Args:
        batch_size: Examples in one step, over all devices of all hosts.
        devices: Number of devices of all hosts.
        accumulation: Parts into which each device divides its share.

    Raises:
        ConfigError: They do not.
    """
    if batch_size % (devices * accumulation):
        raise ConfigError(
            f"A batch of {batch_size} does not fall into equal parts for {devices} devices and {accumulation} "
            f"accumulated parts; make it a multiple of {devices * accumulation}."
        )
