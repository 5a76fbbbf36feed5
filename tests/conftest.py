"""Switches for the whole suite."""

from collections.abc import Iterator

import jax
import pytest

# Broadcasting between ranks is an error, so that shapes mean what they say.
jax.config.update("jax_numpy_rank_promotion", "raise")
# So that what is replicated over devices has several to be replicated over.
jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_dropped() -> Iterator[None]:
    """Compiled programs of one test module are of no use to the next; all of them together take several gigabytes."""
    yield
    jax.clear_caches()
