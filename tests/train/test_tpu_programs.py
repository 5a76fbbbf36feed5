"""What is said of a compiled step: its communication, against what the step is known to average."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from weights.small_models import small_spec, small_variables

from train import tpu_programs
from train.config import RunConfig
from train.tpu_programs import (
    PROGRAMS,
    TOPOLOGIES,
    collectives,
    describe_program,
    describe_what_fits,
    rows_before,
)

TPU_PROGRAM = """
  %all-reduce.2 = (f32[2,16]{1,0:T(2,128)S(1)}, bf16[3]{0:T(128)}) all-reduce(%a, %b), channel_id=1, to_apply=%add
  %get-tuple-element.1 = f32[2,16]{1,0} get-tuple-element(%all-reduce.2), index=0
  %all-reduce-start.1 = f32[] all-reduce-start(%c), channel_id=2, to_apply=%add
  %all-reduce-done.1 = f32[] all-reduce-done(%all-reduce-start.1)
  ROOT %all-gather = pred[8]{0} all-gather(%d), channel_id=3
"""


def test_collectives_are_counted_as_written():
    assert collectives(TPU_PROGRAM) == {
        "all-reduce": {"count": 2, "bytes": 4 * 2 * 16 + 2 * 3 + 4},
        "all-gather": {"count": 1, "bytes": 8},
    }


def recipe(spec):
    return RunConfig.parse(
        {"model": spec.model_dump(), "data": {"layout": "synthetic"}, "training": {"steps": 1}}, where="the test"
    )


def test_a_step_on_four_devices_averages_gradients_loss_and_statistics():
    """Compiled for the CPUs that are there; the sizes are those of the variables."""
    frozen = small_spec(config={**small_spec().config.model_dump(), "batch_statistics": False})
    said = describe_program(recipe(frozen), jax.devices(), examples=2)
    assert (said["devices"], said["hosts"], said["examples_per_device"]) == (4, 1, 2)
    numbers = {
        name: sum(np.size(leaf) for leaf in jax.tree.leaves(tree)) for name, tree in small_variables(frozen).items()
    }
    # And the loss, and that of each of the two stems.
    averaged = 4 * (numbers["params"] + numbers["batch_stats"] + 1 + 2)
    assert said["collectives"].keys() == {"all-reduce"}
    assert said["collectives"]["all-reduce"]["bytes"] == averaged
    # The state is three times the parameters: themselves and Adam's two averages; audio comes on top.
    assert said["memory_bytes"]["arguments"] > 3 * 4 * numbers["params"]
    assert said["flops"] > 0


def test_examples_are_halved_until_they_fit(monkeypatch):
    config, full = recipe(small_spec()), "RESOURCE_EXHAUSTED: Ran out of memory on HBM."

    def compiler(limit, message):
        def describe(config, devices, *, examples):
            if examples > limit:
                raise jax.errors.JaxRuntimeError(f"{message}\nand what takes it")
            return {"examples_per_device": examples}

        return describe

    monkeypatch.setattr(tpu_programs, "describe_program", compiler(8, full))
    assert describe_what_fits(config, [], examples=8) == {"examples_per_device": 8}
    monkeypatch.setattr(tpu_programs, "describe_program", compiler(2, full))
    said = describe_what_fits(config, [], examples=8)
    assert said == {"examples_per_device": 2, "too_large": {"8": full, "4": full}}
    # What does not fit at all, and other errors, are for the caller.
    for limit, message in ((0, full), (2, "INTERNAL: a check failed")):
        monkeypatch.setattr(tpu_programs, "describe_program", compiler(limit, message))
        with pytest.raises(jax.errors.JaxRuntimeError, match=message):
            describe_what_fits(config, [], examples=8)


def test_every_recipe_is_compiled_and_more_than_one_topology():
    recipes = {path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.yaml")}
    recipes = {name for name in recipes if not name.startswith("study_")}
    assert {name for _, name, _ in PROGRAMS} == recipes
    assert {topology for topology, _, _ in PROGRAMS} == set(TOPOLOGIES)


def test_rows_of_the_same_versions_are_kept(tmp_path):
    output, rows = tmp_path / "tpu.json", [{"topology": "v5e:2x4", "recipe": "smoke", "overrides": []}]
    assert rows_before(output, {"jax": "1"}) == []
    output.write_text(json.dumps({"versions": {"jax": "1"}, "programs": rows}))
    assert rows_before(output, {"jax": "1"}) == rows
    assert rows_before(output, {"jax": "2"}) == []
