"""The measurement of the loader: on a small recipe, whose steps are counted and whose shares are consistent."""

import pytest

from train.bench_loader import measure


def test_a_recipe_is_trained_and_its_loader_read_by_itself(config_for, tmp_path):
    config_for(None)  # writes the recipe
    found = measure(tmp_path / "small.yaml", steps=3, batches=5, seconds=1.0)
    assert (found["recipe"], found["steps"], found["batch_size"]) == ("small", 3, 4)
    assert 0 < found["device_seconds"]
    assert 0 <= found["loader_wait_share"] < 1
    # The quotient is rounded once and so is the product, by 1.1e-16 each.
    waited = found["loader_wait_share"] * found["seconds_per_step"]
    assert waited == pytest.approx(found["loader_wait_seconds"], rel=4e-16, abs=0)
    assert found["loader_alone_seconds_per_step"] == 4 / found["loader_alone_examples_per_second"] > 0
