"""The U-Net's forward pass against its twin: how calls take turns. What is measured, training_speed's test has too."""

import pytest

from jaxsep.compare.network_speed import by_turns, rows_of_turns, steadiness


@pytest.mark.parametrize(("repeats", "counted"), [(1, 3), (3, 3), (4, 6)])
def test_calls_come_in_a_row_and_the_first_of_each_is_not_counted(repeats, counted):
    called = []
    times = by_turns({name: lambda name=name: called.append(name) for name in "ab"}, repeats)
    assert "".join(called) == "aaaabbbb" * (counted // 3)
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": counted, "b": counted}
    assert all(second > 0 for seconds in times.values() for second in seconds)


def test_turns_are_the_rounds_by_which_times_are_judged():
    times = {"jaxsep": [1.0, 1.1, 1.2, 1.0, 1.1, 1.2], "pytorch": [1.0, 1.0, 1.0, 3.0, 3.0, 3.0]}
    steady = steadiness(times)
    assert steady["jaxsep"]["round_medians_seconds"] == [1.1, 1.1]
    assert steady["pytorch"]["round_medians_seconds"] == [1.0, 3.0]
    rows = rows_of_turns([{"part": "step", "batch": 4, "steadiness": steady}, {"batch": 1, "steadiness": steady}])
    assert [row["framework"] for row in rows] == [
        "jaxsep, step, batch 4",
        "pytorch, step, batch 4",
        "jaxsep, batch 1",
        "pytorch, batch 1",
    ]
    assert rows[1]["p50"] == 2.0 and rows[1]["p95"] == 3.0
