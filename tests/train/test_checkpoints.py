"""Checkpoints of a run on a real disk: whole states come back bit for bit, damaged ones are passed over."""

import resource
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from weights.small_models import small_spec, small_variables

from jaxsep.errors import CheckpointError
from jaxsep.separation.models import load_model
from jaxsep.training.optimizer import OptimizerConfig, build_optimizer
from jaxsep.training.state import create_state
from jaxsep.weights.runs import choose_checkpoint, read_state
from jaxsep.weights.tree import flatten
from train.checkpoints import Checkpoints
from train.config import CheckpointsConfig

SPEC = small_spec()
RECORD = {"spec": SPEC.model_dump(mode="json"), "config": {"training": {"steps": 7}}, "validation": {}}


def state_at(step, *, seed=None, ema=True):
    """A state in which no two leaves are alike."""
    variables = small_variables(SPEC)
    state = create_state(variables, build_optimizer(OptimizerConfig(), variables["params"]), ema=ema)
    rng = np.random.default_rng(step if seed is None else seed)
    state = jax.tree.map(lambda leaf: rng.standard_normal(np.shape(leaf)).astype(leaf.dtype), state)
    return state.replace(step=np.asarray(step, np.int32))


def saved(workdir, scores, **config):
    with Checkpoints(workdir, CheckpointsConfig(**config)) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(state_at(step), RECORD, score=score)
        checkpoints.wait()
    return checkpoints


def restore(workdir, like=None):
    with Checkpoints(workdir, CheckpointsConfig()) as checkpoints:
        return checkpoints.restore(state_at(0) if like is None else like)


def damage(folder, *, cut=False):
    """Flips a bit in, or cuts, the largest file of a checkpoint: its arrays."""
    file = max((path for path in Path(folder).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content[: len(content) // 2] if cut else content)


def test_a_state_comes_back_bit_for_bit(tmp_path):
    saved(tmp_path, {7: None})
    restored = restore(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, restored.state, state_at(7))
    assert restored.record["config"] == RECORD["config"]
    assert jax.tree.structure(restored.state) == jax.tree.structure(state_at(7))


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert restore(tmp_path) is None


def test_what_is_saved_is_what_was_there_when_it_was_told_to_save(tmp_path):
    """The step that follows overwrites the state's buffers, as donation does."""
    with Checkpoints(tmp_path, CheckpointsConfig()) as checkpoints:
        state = jax.device_put(state_at(7))
        checkpoints.save(state, RECORD, score=None)
        jax.jit(partial(jax.tree.map, lambda leaf: leaf * 0), donate_argnums=0)(state)
        checkpoints.wait()
    jax.tree.map(np.testing.assert_array_equal, restore(tmp_path).state, state_at(7))


def test_the_latest_and_the_best_are_kept(tmp_path):
    scores = {1: None, 2: 3.0, 3: None, 4: 9.5, 5: 4.0, 6: None, 7: None}
    checkpoints = saved(tmp_path, scores, keep_latest=2, keep_best=1)
    assert checkpoints.steps == [4, 6, 7]
    assert choose_checkpoint(tmp_path).name == "4"
    assert choose_checkpoint(tmp_path, "latest").name == "7"
    assert choose_checkpoint(tmp_path, "6").name == "6"
    with pytest.raises(CheckpointError, match="no checkpoint '5'; there are best, latest and 4, 6, 7"):
        choose_checkpoint(tmp_path, "5")


def test_without_validation_the_best_is_the_latest(tmp_path):
    saved(tmp_path, {9: None, 10: None})
    assert choose_checkpoint(tmp_path).name == "10"


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, caplog, cut):
    saved(tmp_path, {7: None, 8: None})
    damage(tmp_path / "checkpoints" / "8", cut=cut)
    with Checkpoints(tmp_path, CheckpointsConfig()) as checkpoints:
        restored = checkpoints.restore(state_at(0))
        assert "8 is damaged" in caplog.text
        jax.tree.map(np.testing.assert_array_equal, restored.state, state_at(7))
        # The run comes to step 8 again.
        checkpoints.save(state_at(8), RECORD, score=None)
        checkpoints.wait()
        jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(state_at(0)).state, state_at(8))
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["8.0"]


def test_a_damaged_record_of_an_older_checkpoint_does_not_end_the_run(tmp_path, caplog):
    saved(tmp_path, {7: 1.0, 8: None})
    record = tmp_path / "checkpoints" / "7" / "record.json"
    record.write_text(record.read_text().replace("7", "9", 1))
    with Checkpoints(tmp_path, CheckpointsConfig()) as checkpoints:
        checkpoints.restore(state_at(0))
        checkpoints.save(state_at(9), RECORD, score=None)
        checkpoints.wait()
        assert checkpoints.steps == [8, 9]
    assert "7 is damaged" in caplog.text and "It is put aside" in caplog.text
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["7.0"]


def test_any_flipped_bit_is_noticed(tmp_path):
    """A bit at a random place of every file."""
    saved(tmp_path, {7: None})
    rng = np.random.default_rng(0)
    folder = tmp_path / "checkpoints" / "7"
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 5
    for file in files:
        intact = file.read_bytes()
        content = bytearray(intact)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            read_state(folder)
        file.write_bytes(intact)
    read_state(folder)


def test_where_none_is_intact_the_run_does_not_begin_anew_in_silence(tmp_path):
    saved(tmp_path, {7: None, 8: None})
    for step in (7, 8):
        damage(tmp_path / "checkpoints" / str(step))
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* is intact; begin anew in another workdir"):
        restore(tmp_path)


# Orbax leaves coroutines behind when a write fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_write_that_fails_keeps_the_last_checkpoint(tmp_path):
    saved(tmp_path, {7: None})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path, CheckpointsConfig()) as checkpoints:
        # No file may grow beyond this: the system's answer to a write is an error, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            with pytest.raises(
                CheckpointError, match=r"step 8 cannot be written: .*; the last one is of step 7"
            ) as told:
                checkpoints.save(state_at(8), RECORD, score=None)
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "File too large" in str(told.value)
    jax.tree.map(np.testing.assert_array_equal, restore(tmp_path).state, state_at(7))
    assert choose_checkpoint(tmp_path).name == "7"


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    saved(tmp_path, {7: None})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with Checkpoints(tmp_path, CheckpointsConfig()) as checkpoints:
        with pytest.raises(
            CheckpointError, match=r"it takes \d+ MB, and 0 MB are free on the disk; the last one is of"
        ):
            checkpoints.save(state_at(8), RECORD, score=None)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["7"]


def test_a_state_of_another_structure_is_refused(tmp_path):
    saved(tmp_path, {7: None})
    with pytest.raises(CheckpointError, match="another structure"):
        restore(tmp_path, like=state_at(0, ema=False))


def test_a_run_is_a_model(tmp_path):
    """The averaged parameters of the best step, with the statistics of that step."""
    saved(tmp_path, {7: 2.0, 8: 1.0})
    model = load_model(tmp_path)
    assert model.spec == SPEC
    state = state_at(7)
    for part, expected in (("params", state.ema_params), ("batch_stats", state.batch_stats)):
        for path, leaf in flatten(expected).items():
            np.testing.assert_array_equal(flatten(model.variables[part])[path], leaf)


def test_without_an_average_a_run_is_its_parameters(tmp_path):
    state = state_at(7, ema=False)
    with Checkpoints(tmp_path, CheckpointsConfig()) as checkpoints:
        checkpoints.save(state, RECORD, score=None)
    model = load_model(tmp_path / "checkpoints" / "7")
    for path, leaf in flatten(state.params).items():
        np.testing.assert_array_equal(flatten(model.variables["params"])[path], leaf)
