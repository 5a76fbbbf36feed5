"""The loop by itself: what ends a run, what it leaves behind, and whose workdir it is."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_runs import PLAIN, SHALLOW, SMOKE, rows

from jaxsep.errors import ConfigError, JaxsepError
from jaxsep.weights.runs import read_state, saved_steps
from train.config import load_config
from train.loop import run
from train.tracks import find_tracks
from train.workdir import open_workdir


def config_of(*overrides):
    return load_config(SMOKE, [*PLAIN, SHALLOW, "training.steps=6", *overrides])


def train(workdir, *overrides, **options):
    config = config_of(*overrides)
    with open_workdir(workdir, config):
        return run(config, workdir, find_tracks(config.data, config.model), **options)


def test_a_step_that_is_not_finite_ends_the_run_and_leaves_its_batch(tmp_path):
    """A rate at which the second step's numbers overflow."""
    with pytest.raises(
        JaxsepError, match=r"^Step (\d) is not finite: loss .*synthetic .* at \d+\.\d{3} s.* lower the"
    ) as told:
        train(tmp_path / "run", "optimizer.kind=sgd", "optimizer.learning_rate=1.0e+30", "checkpoints.every_steps=1")
    (dumped,) = (tmp_path / "run").glob("not-finite-*.npz")
    assert str(dumped) in str(told.value)
    step = int(dumped.name.split("-")[2])
    config = config_of()
    with np.load(dumped) as arrays:
        assert arrays["sources"].shape == (4, 2, config.segment_length, 2)
        assert arrays["index"].tolist() == [4 * (step - 1) + place for place in range(4)]
        assert np.isfinite(arrays["sources"]).all()
    # Nothing of that step, nor of one after it, was written down or saved.
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, step))
    assert max(saved_steps(tmp_path / "run")) == step - 1
    state = read_state(tmp_path / "run" / "checkpoints" / str(step - 1), ("params",))
    assert state["params"]


@pytest.mark.parametrize("allocate", [lambda: np.zeros(1 << 58), lambda: jnp.zeros(1 << 46)])
def test_memory_that_runs_out_is_told_with_what_takes_it(tmp_path, monkeypatch, allocate):
    """The host's, of which numpy tells, and the device's, of which XLA does."""
    monkeypatch.setattr("train.loop.shard", lambda examples, devices: allocate())
    with pytest.raises(
        JaxsepError, match=r"not enough memory for training\.batch_size 4 and segments of \d+ samples, \d.\d\d s"
    ):
        train(tmp_path / "run")


def test_other_failures_of_xla_are_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    def fail(examples, devices):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr("train.loop.shard", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        train(tmp_path / "run")


def test_a_run_ends_when_its_score_has_not_risen_for_its_patience(tmp_path):
    """Where nothing changes, no validation is better than the first, and three are made."""
    patient = (
        "model.config.batch_statistics=false",
        "validation.every_steps=1",
        "validation.seconds=1.0",
        "validation.patience=2",
    )
    outcome = train(tmp_path / "run", "optimizer.kind=sgd", "optimizer.learning_rate=1.0e-30", *patient)
    assert outcome.step == 3
    assert not outcome.interrupted
    scores = [row["validation"]["sdr"] for row in rows(tmp_path / "run") if "validation" in row]
    assert outcome.score == max(scores)
    # Asked again, it has nothing left to do.
    assert train(tmp_path / "run", "optimizer.kind=sgd", "optimizer.learning_rate=1.0e-30", *patient).step == 3


def test_a_plateau_lowers_the_learning_rate_of_the_steps_that_follow(tmp_path):
    schedule = "optimizer.schedule={kind: plateau, patience: 1, decay_rate: 0.5}"
    train(
        tmp_path / "run", "optimizer.kind=sgd", "optimizer.learning_rate=1.0e-30", schedule,
        "validation.every_steps=2", "validation.seconds=1.0",
    )  # fmt: skip
    rates = {row["step"]: row["learning_rate"] for row in rows(tmp_path / "run") if "loss" in row}
    assert rates == pytest.approx({1: 1e-30, 2: 1e-30, 3: 1e-30, 4: 1e-30, 5: 0.5e-30, 6: 0.5e-30}, rel=1e-6)


def test_an_average_of_parameters_is_what_is_validated_and_saved(tmp_path):
    train(tmp_path / "run", "training.ema_decay=0.9")
    state = read_state(tmp_path / "run" / "checkpoints" / "6")
    kernels = [state[part]["source_0"]["encoder_0"]["conv"]["kernel"] for part in ("params", "ema_params")]
    assert np.abs(kernels[0] - kernels[1]).max() > 0


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run that has made its steps."""
    workdir = tmp_path_factory.mktemp("done") / "run"
    train(workdir)
    return workdir


def test_more_steps_can_be_asked_of_a_run_that_is_done(done, tmp_path):
    shutil.copytree(done, tmp_path / "run")
    assert train(tmp_path / "run", "training.steps=8").step == 8
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 9))


def test_a_workdir_of_another_config_is_refused(done):
    before = (done / "config.json").read_text()
    with pytest.raises(ConfigError, match=r"another config \(optimizer.learning_rate, training.seed\); give another"):
        train(done, "optimizer.learning_rate=0.1", "training.seed=1")
    assert (done / "config.json").read_text() == before
    assert json.loads(before)["training"]["seed"] == 0


def test_a_start_that_failed_can_be_mended_in_the_same_workdir(tmp_path):
    """Nothing was saved that another config could not go on with."""
    with pytest.raises(ConfigError, match="freezes nothing"):
        train(tmp_path / "run", "optimizer.frozen=[decoder]")
    assert train(tmp_path / "run", "training.steps=1").step == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["optimizer"]["frozen"] == []


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("chapter one")
    with pytest.raises(ConfigError, match="holds something that is no run of jaxsep's"):
        train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_runs_do_not_share_a_workdir(tmp_path):
    with open_workdir(tmp_path / "run", config_of()):
        with pytest.raises(ConfigError, match="Another process is training in"):
            train(tmp_path / "run")


def test_a_workdir_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/run cannot be written: Not a directory\.$"):
        train(Path(tmp_path / "file" / "run"))


def test_a_batch_that_devices_cannot_share_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="A batch of 6 does not fall into equal parts for 4 devices"):
        train(tmp_path / "run", "training.batch_size=6")
    assert not (tmp_path / "run" / "checkpoints").exists()
