"""The U-Net's forward pass against its twin: how calls take turns. What is measured, training_speed's test has too."""

import pytest

from jaxsep.compare.network_speed import by_turns


@pytest.mark.parametrize(("repeats", "counted"), [(1, 3), (3, 3), (4, 6)])
def test_calls_come_in_a_row_and_the_first_of_each_is_not_counted(repeats, counted):
    called = []
    times = by_turns({name: lambda name=name: called.append(name) for name in "ab"}, repeats)
    assert "".join(called) == "aaaabbbb" * (counted // 3)
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": counted, "b": counted}
    assert all(second > 0 for seconds in times.values() for second in seconds)
