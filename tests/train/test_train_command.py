"""`python -m train` and what its runs are good for, as a user has it: real processes, exit statuses, one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from train_runs import PLAIN, ROOT, SMOKE, environment, rows, run

from jaxsep.weights.checkpoint import load_checkpoint
from jaxsep.weights.tree import flatten

QUICK = ("training.steps=4", "checkpoints.every_steps=2", *PLAIN)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """The smoke recipe as it is, validation and TensorBoard and all."""
    workdir = tmp_path_factory.mktemp("runs") / "smoke"
    out, _ = run(workdir, cache=cache)
    return workdir, out


def jaxsep(cache, *arguments, cwd, status=0):
    command = [str(Path(sys.executable).with_name("jaxsep")), *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=environment(cache), capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    return result


def test_the_smoke_recipe_trains_and_says_what_it_does(trained):
    workdir, out = trained
    assert "parameters of" in out and "source_0/encoder_0" in out
    assert "name: smoke" in out  # the resolved config
    assert "done after step 120, best validation SDR" in out
    losses = [row["loss"] for row in rows(workdir) if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    assert list((workdir / "tensorboard").iterdir())


def test_a_run_separates_a_song(trained, cache, tmp_path):
    """The stems of a synthetic mixture are nearer to the truth than the mixture is."""
    workdir, _ = trained
    from train.config import load_config
    from train.tracks import find_tracks

    config = load_config(SMOKE)
    track = find_tracks(config.data, config.model).validation[0]
    sources = track.read(0, 80_000)
    soundfile.write(tmp_path / "song.wav", sources.sum(axis=0), 8000, subtype="FLOAT")
    jaxsep(cache, "separate", "song.wav", "-m", workdir, "-o", "stems", cwd=tmp_path)
    for stem, true in zip(config.model.stems, sources, strict=True):
        estimate, _ = soundfile.read(tmp_path / "stems" / "song" / f"{stem}.wav", dtype="float32")
        error, without = (np.square(true - other).sum() for other in (estimate, sources.sum(axis=0)))
        # 6 dB; the smoke run's validation has some 12 dB of SDR.
        assert error < 0.25 * without


def test_any_checkpoint_of_a_run_can_be_named(trained, cache, tmp_path):
    workdir, _ = trained
    soundfile.write(tmp_path / "song.wav", np.random.default_rng(0).uniform(-0.1, 0.1, (16_000, 2)), 8000)
    stems = {}
    for which in ("best", "latest", "60"):
        jaxsep(cache, "separate", "song.wav", "-m", workdir, "--checkpoint", which, "-o", which, cwd=tmp_path)
        stems[which] = soundfile.read(tmp_path / which / "song" / "vocals.wav")[0]
    assert np.abs(stems["latest"] - stems["60"]).max() > 1e-3
    told = jaxsep(cache, "separate", "song.wav", "-m", workdir, "--checkpoint", "61", cwd=tmp_path, status=2).stderr
    assert told.count("\n") == 1 and "has no checkpoint '61'; there are best, latest and 60, 120" in told
    told = jaxsep(cache, "separate", "song.wav", "--checkpoint", "best", cwd=tmp_path, status=2).stderr
    assert "--checkpoint picks one of a training run's, and 'spleeter-2stems' is none" in told


def test_a_run_is_released_by_convert(trained, cache, tmp_path):
    workdir, _ = trained
    jaxsep(cache, "convert", workdir, "-o", "smoke.safetensors", cwd=tmp_path)
    released, run_itself = (
        flatten(load_checkpoint(path).variables) for path in (tmp_path / "smoke.safetensors", workdir)
    )
    for name, leaf in run_itself.items():
        np.testing.assert_array_equal(released[name], leaf)
    assert "smoke" in jaxsep(cache, "info", workdir, cwd=tmp_path).stdout


def refused(tmp_path, cache, *arguments, devices=1):
    command = [sys.executable, "-m", "train", *map(str, arguments), "--workdir", str(tmp_path / "run")]
    result = subprocess.run(command, cwd=ROOT, env=environment(cache, devices), capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("train: ")
    assert not (tmp_path / "run").exists()
    return result.stderr


def test_what_cannot_be_trained_is_refused_in_a_sentence_before_anything_is_written(tmp_path, cache):
    song = np.random.default_rng(0).uniform(-0.1, 0.1, (40_000, 1))
    for track in ("one", "two"):
        (tmp_path / "mono" / track).mkdir(parents=True)
        for stem in ("vocals", "accompaniment"):
            soundfile.write(tmp_path / "mono" / track / f"{stem}.wav", song, 8000)
    here = ("data.layout=auto", f"data.root={tmp_path / 'mono'}")
    assert "There is no file" in (told := refused(tmp_path, cache, "configs/none.yaml")) or "cannot be read" in told
    assert "Did you mean 'training'" in refused(tmp_path, cache, SMOKE, "trainin.steps=5")
    assert "there is no folder" in refused(tmp_path, cache, SMOKE, "data.layout=auto", f"data.root={tmp_path / 'no'}")
    assert "a multiple of 3" in refused(tmp_path, cache, SMOKE, devices=3)
    assert "no track is kept for it" in refused(tmp_path, cache, SMOKE, *here)
    assert "--channels 2" in refused(tmp_path, cache, SMOKE, *here, "validation.every_steps=null")
    wrong_stem = "model.stems=[vocals,kazoo]"
    assert "no file for the stem 'kazoo'" in refused(tmp_path, cache, SMOKE, *here, wrong_stem)
    assert "no model or file called 'spleter-2stems'" in refused(
        tmp_path, cache, SMOKE, "init.checkpoint=spleter-2stems"
    )


def test_a_process_that_does_not_say_which_it_is_is_a_usage_error(tmp_path, cache):
    options = ("--coordinator", "localhost:1", "--processes", "2")
    _, err = run(tmp_path / "run", cache=cache, options=options, status=2)
    assert "give --processes, and --process below it" in " ".join(err.replace("│", " ").split())


def test_check_looks_and_leaves_nothing(tmp_path, cache):
    command = [sys.executable, "-m", "train", str(SMOKE), "--workdir", str(tmp_path / "run"), "--check"]
    result = subprocess.run(command, cwd=ROOT, env=environment(cache), capture_output=True, text=True, check=True)
    assert "read: every sample" in result.stdout
    assert os.listdir(tmp_path) == []
