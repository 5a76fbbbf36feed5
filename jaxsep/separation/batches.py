"""Compiled functions over a stream of chunks: batches of one shape, one in flight, halved when memory runs out.

Knows nothing of audio or models: items are trees of host arrays, or stand for them.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsep.errors import SeparationError
from jaxsep.separation.programs import ProgramStore

logger = logging.getLogger(__name__)

# Measured on 2 cores (Spleeter's U-Net, chunks of 512 frames): 2 and 4 chunks at a time are no faster than 1, and take
# more memory.
CPU_BATCH_SIZE = 1
# A bound on how long the first results are waited for; where it costs accelerators throughput has not been measured.
LARGEST_BATCH_SIZE = 32
# What is left to the device's allocator and to other programs.
USABLE_MEMORY = 0.8


class Program:
    """A function that is compiled once for each shape of its arguments, or taken from disk."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        device: jax.Device,
        programs: ProgramStore | None = None,
        name: str = "",
    ) -> None:
        """Compiles nothing yet.

        Args:
            function: A pure function of trees of arrays.
            device: Where it runs.
            programs: Where compiled programs are kept; None keeps none.
            name: All that the function depends on beside its arguments and jaxsep's source. Functions of the same name
                are the same.
        """
        self.name = name
        self._function = jax.jit(function)
        self._device = device
        self._programs = programs
        self._compiled: dict[Any, jax.stages.Compiled] = {}
        self.compile_seconds = 0.0

    def compiled(self, *arguments: Any) -> jax.stages.Compiled:
        """Returns the program for such arguments, of which shapes and types alone matter."""
        leaves, structure = jax.tree.flatten(arguments)
        shapes = tuple((tuple(leaf.shape), np.dtype(leaf.dtype).name) for leaf in leaves)
        if (structure, shapes) not in self._compiled:
            started = time.perf_counter()
            sharding = jax.sharding.SingleDeviceSharding(self._device)
            abstract = jax.tree.unflatten(
                structure, [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding) for leaf in leaves]
            )

            def compile() -> jax.stages.Compiled:
                return self._function.lower(*abstract).compile()

            if self._programs is None:
                program = compile()
            else:
                program = self._programs.get(f"{self.name} {structure} {shapes}", compile, device=self._device)
            self._compiled[structure, shapes] = program
            self.compile_seconds += time.perf_counter() - started
        return self._compiled[structure, shapes]


class Slot:
    """The device's place for one batch: whoever starts the next one waits for the one before, whosever it is.

    Two batches at a time would take the device's memory twice.
    """

    def __init__(self) -> None:
        self._outputs: Any = None

    def enter(self) -> None:
        """Waits until the device is free."""
        with suppress(jax.errors.JaxRuntimeError):  # it is told to the one whose batch it was
            jax.block_until_ready(self._outputs)
        self._outputs = None

    def hold(self, outputs: Any) -> None:
        """Says what is being computed."""
        self._outputs = outputs


class _Started(NamedTuple):
    """A batch on the device: its items, the size that it was filled up to, and its outputs, None if memory ran out."""

    batch: list[Any]
    size: int
    outputs: Any


class BatchRunner:
    """Runs `program(constants, batch)` over items, in batches of one compiled shape.

    The last batch is filled with zeros rather than compiled anew. Items of an unusual shape, such as a last chunk at
    its own length, run one by one. While the device computes a batch, the caller works on the results of the one
    before.

    Attributes:
        batch_size: Items in one call, as it is now; None until the first call has chosen it.
        wait_seconds: Time spent waiting for results.
    """

    def __init__(
        self,
        program: Program,
        *,
        device: jax.Device,
        batch_size: int | None = None,
        arrays: Callable[[Any], Any] = lambda item: item,
        is_usual: Callable[[Any], bool] = lambda item: True,
        slot: Slot | None = None,
    ) -> None:
        """Prepares to run; compiles nothing yet.

        Args:
            program: Takes a tree of constants and a tree whose leaves have a leading batch axis, gives such a tree.
            device: Where to run.
            batch_size: Items in one call; None chooses 1 on CPU and by the device's memory elsewhere.
            arrays: Gives the tree of host arrays that an item stands for.
            is_usual: Whether an item has the shape that is batched; others run one by one.
            slot: The device's place, where others use it too.
        """
        if batch_size is not None and batch_size < 1:
            raise SeparationError(f"The batch size is {batch_size} but must be 1 or more.")
        self._program = program
        self._device = device
        self._arrays = arrays
        self._is_usual = is_usual
        self._slot = Slot() if slot is None else slot
        self.batch_size = CPU_BATCH_SIZE if batch_size is None and device.platform == "cpu" else batch_size
        self.wait_seconds = 0.0

    def run(self, constants: Any, items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields each item with its outputs, in order.

        Args:
            constants: The function's first argument, on the device.
            items: Trees of host arrays, or what `arrays` makes such trees of; most of the same shapes.

        Raises:
            SeparationError: If the device's memory does not hold one item.
        """
        in_flight: _Started | None = None
        for batch in self._batches(constants, items):
            rest = batch
            while rest:
                # One batch is computed at a time: two would take the device's memory twice. The next one starts before
                # the results of this one are used, and its items were made ready while this one was computed.
                finished = self._finish(constants, in_flight) if in_flight else []
                part, rest = rest[: self.batch_size], rest[self.batch_size :]
                in_flight = self._start(constants, part)
                yield from finished
        if in_flight:
            yield from self._finish(constants, in_flight)

    def _batches(self, constants: Any, items: Iterable[Any]) -> Iterator[list[Any]]:
        batch: list[Any] = []
        for item in items:
            if not self._is_usual(item):
                if batch:
                    yield batch
                    batch = []
                yield [item]
                continue
            if self.batch_size is None:
                self.batch_size = self._batch_size_by_memory(constants, self._arrays(item))
            batch.append(item)
            if len(batch) >= self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _start(self, constants: Any, batch: list[Any]) -> "_Started":
        size = self.batch_size if self._is_usual(batch[0]) else 1
        assert size is not None
        self._slot.enter()
        try:
            outputs = self._call(constants, batch, size)
            self._slot.hold(outputs)
            return _Started(batch, size, outputs)
        except jax.errors.JaxRuntimeError as error:
            if not _out_of_memory(error):
                raise
            return _Started(batch, size, None)

    def _finish(self, constants: Any, started: "_Started") -> list[tuple[Any, Any]]:
        """Waits for a batch and returns its items with their outputs; in halves if the device's memory ran out."""
        waiting_since = time.perf_counter()
        try:
            results = None if started.outputs is None else jax.tree.map(np.asarray, started.outputs)
        except jax.errors.JaxRuntimeError as error:
            if not _out_of_memory(error):
                raise
            results = None
        self.wait_seconds += time.perf_counter() - waiting_since
        if results is not None:
            return [
                (item, jax.tree.map(lambda leaf, index=index: leaf[index], results))
                for index, item in enumerate(started.batch)
            ]
        if started.size == 1:
            raise SeparationError(
                f"The memory of {self._device} does not hold one chunk of this model; "
                "free some, or use the CPU (--device cpu)."
            )
        self.batch_size = started.size // 2
        logger.warning("out of device memory: continuing with %d chunks at a time", self.batch_size)
        finished, rest = [], started.batch
        while rest:
            part, rest = rest[: self.batch_size], rest[self.batch_size :]
            finished += self._finish(constants, self._start(constants, part))
        return finished

    def _call(self, constants: Any, batch: list[Any], size: int) -> Any:
        trees = [self._arrays(item) for item in batch]
        stacked = jax.tree.map(lambda *leaves: _stack(leaves, size), *trees)
        return self._program.compiled(constants, stacked)(constants, jax.device_put(stacked, self._device))

    def _batch_size_by_memory(self, constants: Any, item: Any) -> int:
        one = jax.tree.map(lambda leaf: _stack((leaf,), 1), item)
        analysis: Any = self._program.compiled(constants, one).memory_analysis()
        limit = (self._device.memory_stats() or {}).get("bytes_limit", 0)
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(constants))
        each = analysis.temp_size_in_bytes + analysis.output_size_in_bytes + analysis.argument_size_in_bytes - held
        return batch_size_for(limit, bytes_held=held, bytes_each=each)


def batch_size_for(bytes_limit: int, *, bytes_held: int, bytes_each: int) -> int:
    """Returns the largest power of two of items that fits into a device's memory, 1 at least.

    Args:
        bytes_limit: What the device's allocator may take; 0 if it does not say.
        bytes_held: Taken whatever the batch size (the weights).
        bytes_each: Taken by one item: its input, its output and all between.
    """
    fitting = int((bytes_limit * USABLE_MEMORY - bytes_held) / max(bytes_each, 1))
    size = 1
    while size * 2 <= min(fitting, LARGEST_BATCH_SIZE):
        size *= 2
    return size


def _stack(leaves: tuple[np.ndarray, ...], size: int) -> np.ndarray:
    if len(leaves) == size == 1:
        return np.asarray(leaves[0])[None]
    stacked = np.zeros((size, *np.shape(leaves[0])), leaves[0].dtype)
    for index, leaf in enumerate(leaves):
        stacked[index] = leaf
    return stacked


def _out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error)
