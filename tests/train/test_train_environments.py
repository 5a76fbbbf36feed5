"""`python -m train` in odd environments: the same numbers, one sentence, and no message that ends a run."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import pytest
from train_runs import SHALLOW
from training.step_runs import assert_close, run, step_and_state

ROOT = Path(__file__).parents[2]
SHORT = ["training.steps=2", "validation.every_steps=2", "checkpoints.every_steps=2", "logging.every_steps=1"]
SHORT += ["validation.seconds=1.0", SHALLOW]


def train(workdir, *, shell="", **environment):
    command = [sys.executable, "-m", "train", str(ROOT / "configs/smoke.yaml"), "--workdir", str(workdir), *SHORT]
    return subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "-", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def losses(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def test_settings_for_other_programs_of_jax_train_the_same_numbers(tmp_path):
    """With wide numbers, strict promotion and a transfer guard, and with all messages lost."""
    odd = {"JAX_ENABLE_X64": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_TRANSFER_GUARD": "disallow"}
    assert train(tmp_path / "plain").returncode == 0
    result = train(tmp_path / "odd", shell="<&- >&- 2>&-", **odd)
    assert result.returncode == 0
    assert losses(tmp_path / "plain") == losses(tmp_path / "odd") != []  # bit for bit: the same program


@pytest.mark.parametrize(
    ("name", "value"), [("JAX_PLATFORMS", "cuda"), ("JAX_DISABLE_JIT", "1"), ("JAX_ENABLE_X64", "maybe")]
)
def test_settings_of_jax_that_do_not_work_are_one_sentence(tmp_path, name, value):
    result = train(tmp_path / "run", **{name: value})
    assert result.returncode == 2
    assert result.stderr.startswith("train: JAX") and result.stderr.count("\n") == 1 and name in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", [partial(jax.enable_x64, True), partial(jax.numpy_dtype_promotion, "strict")])
def test_the_step_is_the_same_with_wide_numbers_and_strict_promotion(setting):
    states = []
    for changed in (False, True):
        jax.clear_caches()
        step, state = step_and_state()
        compiled = jax.jit(partial(step, axis_name=None))
        if changed:
            with setting():
                states.append(run(compiled, state, 3)[0])
        else:
            states.append(run(compiled, state, 3)[0])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(states[1].params)} == {"float32"}
    assert_close(states[1].params, states[0].params, 1e-5)
