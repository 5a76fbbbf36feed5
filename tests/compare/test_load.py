"""What says that a machine was too busy for its times to be quoted."""

import os

import numpy as np
import pytest

from jaxsep.compare.load import (
    in_words,
    largest,
    load_average,
    row_of,
    spread,
    steadiness,
    verdict,
    wait_until_quiet,
    why_busy,
)

STEADY = {"framework": "jax", "p50": 0.1, "p95": 0.19}


@pytest.mark.parametrize(
    ("before", "during", "row", "reasons"),
    [
        (0.4, 2.4, STEADY, []),
        (None, None, STEADY, []),
        (0.6, 2.4, STEADY, ["the load average was 0.6 before, above 0.5"]),
        (0.4, 2.6, STEADY, ["the load average was up to 2.6 during it, above 0.5 beside its 2"]),
        (0.4, 2.4, STEADY | {"p95": 0.21}, ["jax: p95 (0.21 s) is over twice p50 (0.1 s)"]),
    ],
)
def test_times_are_not_quoted_of_a_busy_machine(before, during, row, reasons):
    found = why_busy(before, during, 2, [row])
    assert found == reasons
    said = in_words({"before": before, "during": during, "busy": found})
    assert ("busy machine: do not quote" in said) is bool(reasons)
    assert ("not known" in said) is (before is None)


def test_the_load_is_the_systems(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.25, 9.0, 9.0))
    assert load_average() == 1.25
    monkeypatch.delattr(os, "getloadavg")
    assert load_average() is None
    assert largest([None, 0.5, 2.0]) == 2.0 and largest([None]) is None


def test_the_spread_of_rounds_is_a_part_of_the_median():
    assert spread([1.0, 1.1, 1.3]) == pytest.approx(0.3 / 1.1)
    assert spread([2.0]) == 0.0


def test_times_are_told_with_how_far_they_lie_apart():
    rounds = [[0.1, 0.3, 0.2], [0.4, 0.5, 0.9]]
    steady = steadiness(rounds)
    assert steady["p50_seconds"] == pytest.approx(np.percentile(rounds, 50))
    assert steady["p95_seconds"] == pytest.approx(np.percentile(rounds, 95))
    assert steady["round_medians_seconds"] == [0.2, 0.5] and steady["between_rounds"] == pytest.approx(0.3 / 0.5)
    assert steadiness([[2.0]]) == {
        "p50_seconds": 2.0,
        "p95_seconds": 2.0,
        "round_medians_seconds": [2.0],
        "between_rounds": 0.0,
    }
    said = verdict(0.1, [None, 1.5, 0.3], 2, [row_of("jax, batch 1", steady)])
    assert said == {"before": 0.1, "during": 1.5, "busy": ["jax, batch 1: p95 (0.8 s) is over twice p50 (0.35 s)"]}
    assert verdict(0.1, [1.5], 2, [row_of("jax", steadiness([[1.0], [1.1]]))])["busy"] == []


def test_what_ran_before_is_waited_for_but_not_for_ever(monkeypatch):
    loads, waited = [3.0, 1.0, 0.5], []
    monkeypatch.setattr(os, "getloadavg", lambda: (loads[min(len(waited), 2)], 9.0, 9.0))
    wait_until_quiet(pause=waited.append)
    assert waited == [1.0, 1.0]
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 9.0, 9.0))
    wait_until_quiet(5.0, pause=waited.append)
    assert len(waited) == 7
