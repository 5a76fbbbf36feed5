"""The measurement of training speed: that both frameworks make the same step."""

import functools
import json
import os

import pytest
from weights.small_models import small_spec

from jaxsep.compare import training_speed
from jaxsep.compare.training_speed import measure_training


def test_both_frameworks_make_the_same_step_and_the_report_is_consistent(monkeypatch):
    """Without dropout, which would draw other numbers: the losses of the first steps are equal."""
    # Of smaller matrices than are worth reporting, which take a hundredth of a second and not three.
    monkeypatch.setattr(training_speed, "matrix_peak", functools.partial(training_speed.matrix_peak, size=256))
    spec = small_spec(config={**small_spec().config.model_dump(), "dropout": 0.0, "batch_statistics": False})
    # Of a machine on which something else runs; the times themselves may lie apart, or not.
    monkeypatch.setattr(os, "getloadavg", lambda: (3.25, 9.0, 9.0))
    report = json.loads(json.dumps(measure_training(spec, batch_sizes=(2,), repeats=4)))
    assert report["load_average"]["before"] == report["load_average"]["during"] == 3.25
    assert report["load_average"]["busy"][0] == "the load average was 3.2 before, above 0.5"
    whole, network = rows = report["training"]
    assert [(row["part"], row["batch"]) for row in rows] == [("step", 2), ("network", 2)]
    # Sums over some hundred magnitudes and products in float32.
    assert whole["first_loss"]["jaxsep"] == pytest.approx(whole["first_loss"]["pytorch"], rel=1e-5)
    assert network["first_loss"]["jaxsep"] == pytest.approx(whole["first_loss"]["pytorch"], rel=1e-5)
    for row in rows:
        # After three Adam steps of 1e-4, in which rounding is small.
        assert row["last_loss"]["jaxsep"] == pytest.approx(row["last_loss"]["pytorch"], rel=1e-4)
        assert row["last_loss"]["jaxsep"] < row["first_loss"]["jaxsep"]
        assert 0 < row["minimum_seconds"]["jaxsep"] <= row["median_seconds"]["jaxsep"]
        for name, steady in row["steadiness"].items():
            assert len(steady["round_medians_seconds"]) == 2
            assert steady["p50_seconds"] == pytest.approx(row["median_seconds"][name])
        share = row["fraction_of_matrix_peak"] * report["matrix_peak_gflops_per_second"]
        assert share == pytest.approx(row["gflops_per_second"])
