"""The passes of the Wiener filter: what they hold of a track. What they compute, test_estimate.py and dsp compare."""

import weakref

import numpy as np
import pytest
from jaxsep.separation.filtered import _split


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_groups_are_taken_apart_and_nothing_is_held_that_all_have_had(groups):
    """Magnitudes of a chunk are 17 MB: what was used has to go."""
    made = []

    def items():
        for number in range(100):
            parts = tuple(np.full(1, 10 * number + group) for group in range(groups))
            made.append([weakref.ref(part) for part in parts])
            yield parts
            del parts

    split = _split(items(), groups)
    for number in range(100):
        for group, iterator in enumerate(split):
            assert next(iterator)[0] == 10 * number + group
        assert not any(part() is not None for parts in made[:-1] for part in parts)
    assert [next(iterator, None) for iterator in split] == [None] * groups


def test_no_items_are_no_items():
    assert [list(iterator) for iterator in _split([], 2)] == [[], []]
