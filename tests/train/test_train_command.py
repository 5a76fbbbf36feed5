"""`python -m train` and what its runs are good for: exit statuses, one sentence.

The first of each kind is a process of its own, as a user has it; the others are calls of the same commands in this one.
"""

import fcntl
import logging
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from train_runs import PLAIN, ROOT, SMOKE, environment, rows, run
from typer.testing import CliRunner

from jaxsep.weights.checkpoint import load_checkpoint
from jaxsep.weights.runs import choose_checkpoint
from jaxsep.weights.tree import flatten
from train.config import load_config
from train.program import state_bytes

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


@pytest.fixture
def here(cache, tmp_path, monkeypatch, settings_taken_back):
    """Runs a command in this process, in a folder of its own; anything but the exit status expected is a failure."""
    monkeypatch.setenv("JAXSEP_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    # What the command sets for its process.
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    levels = {name: logging.getLogger(name).level for name in ("train", "absl")}

    def run_here(app, *arguments, status=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return result

    yield run_here
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def jaxsep(here):
    from jaxsep.cli.main import app

    return lambda *arguments, **status: here(app, *arguments, **status)


@pytest.fixture
def train(here):
    from train.__main__ import app

    return lambda *arguments, **status: here(app, *arguments, **status)


def test_the_smoke_recipe_trains_and_says_what_it_does(trained):
    workdir, out = trained
    assert "parameters of" in out and "source_0/encoder_0" in out
    assert "name: smoke" in out  # the resolved config
    assert "done after step 120, best validation SDR" in out
    losses = [row["loss"] for row in rows(workdir) if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    assert list((workdir / "tensorboard").iterdir())


def test_a_terminal_shows_a_bar_above_which_the_rows_go(trained, cache, tmp_path):
    """On a pseudo-terminal, as a shell has it: the bar moves in one line, and is gone at the end."""
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    # What the recipe compiles is there, from the run of `trained`.
    command = [sys.executable, "-m", "train", str(SMOKE), *QUICK, "--workdir", str(tmp_path / "run")]
    settings = {"env": {**environment(cache), "TERM": "xterm"}, "cwd": ROOT}
    process = subprocess.Popen(command, stdin=its_end, stdout=its_end, stderr=its_end, **settings)
    os.close(its_end)
    shown = b""
    with suppress(OSError):  # which is how Linux says that nobody writes any more
        while block := os.read(terminal, 1 << 16):
            shown += block
    os.close(terminal)
    assert process.wait(timeout=60) == 0, shown
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r\n", "\n").split("\n")
    # What a line showed before it was written over is in front of the last carriage return or erasure.
    bars = "".join(lines)
    assert [count for count in range(5) if f"step {count}/4 " in bars][-1] == 4 and "━" in bars and "loss 0." in bars
    finals = [line.rsplit("\r", 1)[-1] for line in lines]
    rows_shown = [line for line in finals if re.search(r"step \d  epoch ", line)]
    assert [re.search(r"step (\d)  epoch", line)[1] for line in rows_shown] == ["1", "2", "3", "4"]
    assert finals[-2].startswith("done after step 4") and finals[-1] == ""
    assert "\x1b[?25h" in shown.decode()  # the cursor is back


def test_a_run_separates_a_song(trained, cache, tmp_path):
    """The stems of a synthetic mixture are nearer to the truth than the mixture is."""
    workdir, _ = trained
    from train.tracks import find_tracks

    config = load_config(SMOKE)
    track = find_tracks(config.data, config.model).validation[0]
    sources = track.read(0, 80_000)
    soundfile.write(tmp_path / "song.wav", sources.sum(axis=0), 8000, subtype="FLOAT")
    command = [str(Path(sys.executable).with_name("jaxsep")), "separate", "song.wav", "-m", str(workdir), "-o", "stems"]
    subprocess.run(command, cwd=tmp_path, env=environment(cache), capture_output=True, check=True)
    for stem, true in zip(config.model.stems, sources, strict=True):
        estimate, _ = soundfile.read(tmp_path / "stems" / "song" / f"{stem}.wav", dtype="float32")
        error, without = (np.square(true - other).sum() for other in (estimate, sources.sum(axis=0)))
        # 6 dB; the smoke run's validation has some 12 dB of SDR.
        assert error < 0.25 * without


def test_any_checkpoint_of_a_run_can_be_named(trained, jaxsep, tmp_path):
    workdir, _ = trained
    soundfile.write(tmp_path / "song.wav", np.random.default_rng(0).uniform(-0.1, 0.1, (16_000, 2)), 8000)
    stems = {}
    for which in ("best", "latest", "60"):
        jaxsep("separate", "song.wav", "-m", workdir, "--checkpoint", which, "-o", which)
        stems[which] = soundfile.read(tmp_path / which / "song" / "vocals.wav")[0]
    assert np.abs(stems["latest"] - stems["60"]).max() > 1e-3
    told = jaxsep("separate", "song.wav", "-m", workdir, "--checkpoint", "61", status=2).stderr
    assert told.count("\n") == 1 and "has no checkpoint '61'; there are best, latest and 60, 120" in told
    told = jaxsep("separate", "song.wav", "--checkpoint", "best", status=2).stderr
    assert "--checkpoint picks one of a training run's, and 'spleeter-2stems' is none" in told


def test_a_run_is_released_by_convert(trained, jaxsep, tmp_path):
    workdir, _ = trained
    jaxsep("convert", workdir, "-o", "smoke.safetensors")
    released, run_itself = (
        flatten(load_checkpoint(path).variables) for path in (tmp_path / "smoke.safetensors", workdir)
    )
    for name, leaf in run_itself.items():
        np.testing.assert_array_equal(released[name], leaf)
    assert "smoke" in jaxsep("info", workdir).stdout


def test_a_damaged_best_checkpoint_is_told_with_the_newest_that_is_intact(trained, jaxsep, tmp_path):
    """By every command that takes a run; which one is named instead is left to whoever asks."""
    run_folder = tmp_path / "run"
    shutil.copytree(trained[0], run_folder)
    best = choose_checkpoint(run_folder)
    other = next(folder for folder in best.parent.iterdir() if folder != best)
    flip_a_bit(max((path for path in best.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size))
    for command in (("info", run_folder), ("convert", run_folder, "-o", "out.safetensors"), ("info", best)):
        told = jaxsep(*command, status=1).stderr
        assert told.count("\n") == 1 and f"{best} is damaged: its files do not match their sha256; the newest" in told
        assert f"the newest intact checkpoint of the run is {other}: name that one." in told
    assert "smoke" in jaxsep("info", other).stdout
    # Without its record nobody knows which one is the best; the others can be named all the same.
    flip_a_bit(best / "record.json")
    assert f"newest intact checkpoint of the run is {other}:" in jaxsep("info", run_folder, status=2).stderr
    soundfile.write(tmp_path / "song.wav", np.zeros((8000, 2)), 8000)
    jaxsep("separate", "song.wav", "-m", run_folder, "--checkpoint", other.name, "-o", "stems")
    flip_a_bit(other / "record.json")
    assert "no checkpoint of the run is intact" in jaxsep("info", run_folder, status=2).stderr


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def assert_refused(status, stderr, workdir, problems=1):
    assert status == 2, stderr
    # A line for each, and one that counts them.
    assert stderr.count("\n") == problems + (problems > 1), stderr
    assert stderr.startswith("train: ")
    assert not workdir.exists()


def test_a_batch_that_devices_cannot_share_is_refused_by_the_process(tmp_path, cache):
    command = [sys.executable, "-m", "train", str(SMOKE), "--workdir", str(tmp_path / "run")]
    result = subprocess.run(command, cwd=ROOT, env=environment(cache, devices=3), capture_output=True, text=True)
    assert_refused(result.returncode, result.stderr, tmp_path / "run")
    assert "a multiple of 3" in result.stderr


def test_what_cannot_be_trained_is_refused_in_a_sentence_before_anything_is_written(tmp_path, train):
    song = np.random.default_rng(0).uniform(-0.1, 0.1, (40_000, 1))
    for track in ("one", "two"):
        (tmp_path / "mono" / track).mkdir(parents=True)
        for stem in ("vocals", "accompaniment"):
            soundfile.write(tmp_path / "mono" / track / f"{stem}.wav", song, 8000)

    def refused(*arguments, problems=1):
        result = train(*arguments, "--workdir", tmp_path / "run", status=2)
        assert_refused(result.exit_code, result.stderr, tmp_path / "run", problems)
        return result.stderr

    mono = ("data.layout=auto", f"data.root={tmp_path / 'mono'}")
    assert "There is no file" in (told := refused("configs/none.yaml")) or "cannot be read" in told
    assert "Did you mean 'training'" in refused(SMOKE, "trainin.steps=5")
    assert "there is no folder" in refused(SMOKE, "data.layout=auto", f"data.root={tmp_path / 'no'}")
    # Four files of one channel, and nothing to validate on.
    assert "no track is kept for it" in (told := refused(SMOKE, *mono, problems=5)) and told.count("--channels 2") == 4
    without = (*mono, "validation.every_steps=null")
    assert refused(SMOKE, *without, "model.stems=[vocals,kazoo]", problems=2).count("no file for the stem 'kazoo'") == 2
    assert "no model or file called 'spleter-2stems'" in refused(SMOKE, "init.checkpoint=spleter-2stems")


def test_a_process_that_does_not_say_which_it_is_is_a_usage_error(tmp_path, train):
    options = ("--coordinator", "localhost:1", "--processes", "2")
    result = train(SMOKE, "--workdir", tmp_path / "run", *options, status=2)
    assert "give --processes, and --process below it" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["optimizer.frozen=[decoder]"], ["'decoder' freezes nothing; parameters are called like 'source_0/"]),
        (["optimizer.frozen=['*']"], ["All parameters are frozen"]),
        # Of a segment of four frames fewer samples are complete than the loss's transforms need.
        (
            ["data.segment_length=448", "model.config.filters=[4, 8]", "loss.terms=[{kind: multi_resolution_stft}]"],
            ["Audio of 64 samples is too short"],
        ),
        (
            ["training.batch_size=6", "optimizer.frozen=[decoder]", "data.validation_tracks=[nobody]"],
            ["A batch of 6 does not", "'decoder' freezes", "there is no track 'nobody'", "that is no run of jaxsep's"],
        ),
    ],
)
def test_check_tells_what_a_run_would_stumble_over(tmp_path, train, overrides, told):
    workdir = tmp_path / "run"
    if "that is no run" in told[-1]:
        workdir = tmp_path
        (tmp_path / "thesis.txt").write_text("chapter one")
    found = train(SMOKE, "--workdir", workdir, "--check", *overrides, status=2).stderr
    assert all(part in found for part in told), found
    assert found.count("\n") == len(told) + (len(told) > 1), found
    assert "Traceback" not in found


def test_check_tells_whether_a_checkpoint_is_one_to_start_from(trained, tmp_path, train):
    start_from = f"init.checkpoint={trained[0]}"
    train(SMOKE, "--workdir", tmp_path / "run", "--check", start_from)
    told = train(SMOKE, "--workdir", tmp_path / "run", "--check", start_from, "model.config.filters=[4, 8]", status=2)
    assert "The model needs '" in told.stderr and told.stderr.count("\n") == 1
    told = train(SMOKE, "--workdir", tmp_path / "run", "--check", start_from, "init.fresh=[decoder]", status=2)
    assert "init.fresh: 'decoder' matches no variable" in told.stderr


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_one_sentence(trained, tmp_path, cache):
    """No file may grow beyond 30 kB, which the system answers as it answers a full disk: when it is written to."""
    # What the recipe compiles is there, from the run of `trained`.
    command = [sys.executable, "-m", "train", str(SMOKE), "--workdir", str(tmp_path / "run"), *QUICK]
    limited = ["bash", "-c", 'ulimit -f 30 && exec "$@"', "bash", *command]
    result = subprocess.run(limited, cwd=ROOT, env=environment(cache), capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("train: The checkpoint of step 2 cannot be written: File too large")
    assert os.listdir(tmp_path / "run" / "checkpoints") == []


def test_check_tells_whether_the_checkpoints_will_fit_on_the_disk(trained, tmp_path, train, monkeypatch):
    """Two of the latest, the best, and the one that is being written; the smoke recipe saves no more than two."""
    size = state_bytes(load_config(SMOKE))
    saved = [path.stat().st_size for path in choose_checkpoint(trained[0]).rglob("*") if path.is_file()]
    # Records are beside the arrays, and of so small a network they are as large.
    assert size < sum(saved) < 2 * size
    many = ("checkpoints.every_steps=10", "validation.every_steps=20")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2.5 * size))
    train(SMOKE, "--workdir", tmp_path / "run", "--check")
    told = train(SMOKE, "--workdir", tmp_path / "run", "--check", *many, status=2).stderr
    assert re.search(r"will take \d+ MB more \(4 of \d+ MB\), and \d+ MB are free on the disk of ", told), told
    assert told.count("\n") == 1
    # What is there takes no room again.
    train(SMOKE, "--workdir", trained[0], "--check", *many)


def test_check_looks_and_leaves_nothing(tmp_path, train):
    result = train(SMOKE, "--workdir", tmp_path / "run", "--check")
    assert "read: every sample" in result.stdout
    assert os.listdir(tmp_path) == []
