"""The measurement of the Wave-U-Nets' speed: both frameworks compute the same, and the report is consistent."""

import json

import pytest

from jaxsep.compare.wave_unet_speed import measure
from jaxsep.models.cutting import whole_outputs
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.rules import SPECS


@pytest.mark.parametrize(
    ("form", "shape"),
    [("wave-unet-m4", {"levels": 2, "filters": 4}), ("wave-unet-torch", {"n_sources": 2, "filters": (8, 16)})],
)
def test_both_frameworks_compute_the_same_and_the_report_is_consistent(form, shape):
    config = SPECS[form].config.model_copy(update=shape)
    procedure = {"cutting": whole_outputs(*config.lengths(100), last="padded")}
    # Two sources, since their networks are alike and each is compiled; the other form has two as it is published.
    changes = {"config": config, "procedure": procedure, "stems": SPECS[form].stems[: config.n_sources]}
    spec = ModelSpec.parse({**SPECS[form].model_dump(), **changes}, where="the test")
    rows = json.loads(json.dumps(measure(spec, forward_batches=(2,), step_batches=(2,), repeats=2)))
    assert [(row["part"], row["batch"]) for row in rows] == [("forward", 2), ("step", 2)]
    for row in rows:
        # Means of some hundred squares in float32.
        assert row["first_result"]["jaxsep"] == pytest.approx(row["first_result"]["pytorch"], rel=1e-4)
        assert row["first_result"]["jaxsep"] > 0
        assert 0 < row["minimum_seconds"]["jaxsep"] <= row["median_seconds"]["jaxsep"]
        assert row["times_as_fast_as_pytorch"] > 0
        for name, steady in row["steadiness"].items():
            assert steady["p50_seconds"] == pytest.approx(row["median_seconds"][name])
