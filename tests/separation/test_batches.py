"""Batches: order, one compiled shape, and halving when the device's memory runs out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.errors import SeparationError
from jaxsep.separation import batches
from jaxsep.separation.batches import BatchRunner, Program, Slot, batch_size_for

DEVICE = jax.devices("cpu")[0]


class Traced:
    """A function that counts how often it is traced, which is once for every shape."""

    def __init__(self):
        self.shapes = []

    def __call__(self, factor, batch):
        self.shapes.append(batch.shape)
        return {"scaled": factor * batch, "sum": batch.sum(axis=1)}


def runner_of(function, **options):
    return BatchRunner(Program(function, device=DEVICE), device=DEVICE, **options)


def items(count):
    return [np.full((3,), index, np.float32) for index in range(count)]


def check(outputs, count):
    assert len(outputs) == count
    for index, (item, output) in enumerate(outputs):
        np.testing.assert_array_equal(item, index)
        np.testing.assert_array_equal(output["scaled"], np.full(3, 2 * index))
        assert output["sum"] == 3 * index


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_items_keep_their_order_and_one_shape_is_compiled(batch_size, count):
    function = Traced()
    runner = runner_of(function, batch_size=batch_size)
    check(list(runner.run(jnp.float32(2), items(count))), count)
    assert function.shapes == ([(batch_size, 3)] if count else [])


def test_items_of_an_unusual_shape_run_one_by_one_and_in_their_place():
    """Last chunks at their own length: a program for each of their shapes, none of it padded to a batch."""
    function = Traced()
    runner = runner_of(function, batch_size=2, is_usual=lambda item: len(item) == 3)
    lengths = [3, 3, 3, 2, 3, 5, 5, 3]
    given = [np.full((length,), index, np.float32) for index, length in enumerate(lengths)]
    outputs = list(runner.run(jnp.float32(2), given))
    for index, (item, output) in enumerate(outputs):
        assert item is given[index]
        np.testing.assert_array_equal(output["scaled"], 2 * given[index])
    assert function.shapes == [(2, 3), (1, 2), (1, 5)]


def test_two_runners_with_one_slot_never_compute_at_the_same_time(monkeypatch):
    slot, running = Slot(), []
    waited = jax.block_until_ready
    monkeypatch.setattr(batches.jax, "block_until_ready", lambda outputs: running.append(outputs) or waited(outputs))
    runners = [runner_of(Traced(), batch_size=1, slot=slot) for _ in range(2)]
    streams = [runner.run(jnp.float32(2), items(2)) for runner in runners]
    for _ in range(2):
        for stream in streams:
            next(stream)
    # Each batch but the first waited for what the other runner had started.
    assert len([outputs for outputs in running if outputs is not None]) >= 3


def test_the_next_batch_is_started_before_the_results_of_the_one_before_are_used():
    taken = []

    def watched():
        for item in items(4):
            taken.append(item)
            yield item

    runner = runner_of(Traced(), batch_size=1)
    run = runner.run(jnp.float32(2), watched())
    next(run)
    assert len(taken) == 2


class OutOfMemory:
    """Stands for a device that holds `largest` items: raises what XLA raises, on dispatch or when results are read."""

    def __init__(self, runner, largest):
        self.call = runner._call
        self.largest, self.refused = largest, []

    def __call__(self, constants, batch, size):
        if size > self.largest:
            self.refused.append(size)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.")
        return self.call(constants, batch, size)


@pytest.mark.parametrize(("largest", "sizes"), [(4, [8]), (1, [8, 4, 2])])
def test_batches_are_halved_until_they_fit(largest, sizes):
    runner = runner_of(Traced(), batch_size=8)
    runner._call = OutOfMemory(runner, largest)
    check(list(runner.run(jnp.float32(2), items(19))), 19)
    assert runner.batch_size == largest
    # What was too large once is not tried again.
    assert runner._call.refused == sizes


def test_running_out_of_memory_when_results_are_read_is_handled_too(monkeypatch):
    runner = runner_of(Traced(), batch_size=4)
    failures = iter([True])
    read = jax.tree.map

    def reading(function, tree, *rest, **options):
        if function is np.asarray and next(failures, False):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return read(function, tree, *rest, **options)

    monkeypatch.setattr(batches.jax.tree, "map", reading)
    check(list(runner.run(jnp.float32(2), items(6))), 6)
    assert runner.batch_size == 2


def test_one_item_that_does_not_fit_is_an_error_that_says_what_to_do():
    runner = runner_of(Traced(), batch_size=2)
    runner._call = OutOfMemory(runner, 0)
    with pytest.raises(SeparationError, match=r"does not hold one chunk.*--device cpu"):
        list(runner.run(jnp.float32(2), items(3)))


def test_other_errors_of_the_device_are_not_swallowed():
    runner = runner_of(Traced(), batch_size=2)

    def broken(constants, batch, size):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    runner._call = broken
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        list(runner.run(jnp.float32(2), items(3)))


def test_batch_size_follows_the_memory_of_the_device():
    gib = 2**30
    assert batch_size_for(0, bytes_held=gib, bytes_each=gib) == 1
    assert batch_size_for(10 * gib, bytes_held=1 * gib, bytes_each=gib) == 4  # 80 % of 10 less 1 is 7
    assert batch_size_for(16 * gib, bytes_held=1 * gib, bytes_each=gib) == 8
    assert batch_size_for(1000 * gib, bytes_held=0, bytes_each=gib) == 32


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(SeparationError, match="must be 1 or more"):
        runner_of(Traced(), batch_size=0)
