"""Switches for the whole suite."""

from collections.abc import Iterator

import jax
import pytest

# Broadcasting between ranks is an error, so that shapes mean what they say.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_dropped() -> Iterator[None]:
    """Compiled programs of one test module are of no use to the next; all of them together take several gigabytes."""
    yield
    jax.clear_caches()
