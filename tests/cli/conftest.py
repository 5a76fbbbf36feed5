"""The command line in this process and in processes of its own, all with one compilation cache."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner
from weights.small_models import small_spec, small_variables

SCRIPT = Path(sys.executable).with_name("jaxsep")


@pytest.fixture(scope="session")
def first_run(tmp_path_factory):
    """A run in a process of its own with an empty cache, which all others then use: compiling takes seconds.

    The folder holds 'song.wav', 'separated' and 'report.json'; the cache is its folder 'cache'.
    """
    folder = tmp_path_factory.mktemp("first-run")
    write_song(folder / "song.wav", 1.5)
    command = [SCRIPT, "separate", "song.wav", "--report", "report.json"]
    environment = {**os.environ, "JAXSEP_CACHE": str(folder / "cache")}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def cache(first_run):
    """Where all runs find what the first one compiled."""
    return first_run / "cache"


@pytest.fixture(autouse=True)
def place(cache, tmp_path, monkeypatch, settings_taken_back):
    """Runs the test in a folder of its own, and takes back what the command line sets for its process."""
    monkeypatch.setenv("JAXSEP_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def jaxsep():
    """Runs a command line in this process; anything but an exit status is a failure of the test."""
    from jaxsep.cli.main import app

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A model of the bundled one's name, stems and sample rate that computes next to nothing."""
    from jaxsep.weights.checkpoint import save_checkpoint

    path = tmp_path_factory.mktemp("small") / "model.safetensors"
    # 512 frames in a chunk: what is done for each chunk, and not by the network, is most of what so small a one takes.
    cutting = {"chunk_length": 512 * 16 + 48, "chunk_hop": 512 * 16}
    spec = small_spec(name="spleeter-2stems", sample_rate=44100, procedure={"cutting": cutting})
    # Variances are not to be negative.
    save_checkpoint(path, spec, jax.tree.map(np.abs, small_variables(spec)))
    return path


@pytest.fixture
def quick_jaxsep(jaxsep, small_model):
    """Runs a command line in this process with the small model, where the test is not about what a model computes."""

    options = ["--model", small_model, "--batch-size", "1"]

    def run(command, *arguments):
        return jaxsep(command, *arguments, *(options if command == "separate" else []))

    return run


@pytest.fixture
def process():
    """Runs a command line in a process of its own, with pipes for its output."""

    def run(*arguments, **environment):
        return subprocess.run(
            [SCRIPT, *arguments], capture_output=True, timeout=120, env={**os.environ, **environment}, text=True
        )

    return run


def write_song(path, seconds=1.0, *, sample_rate=44100, channels=2, subtype="PCM_16", level=0.1):
    """Writes a song of tones and noise and returns its samples as a reader gives them, and its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    tones = np.sin(2 * np.pi * 220 * time) + np.sin(2 * np.pi * 554 * time) * np.sin(2 * np.pi * 5 * time)
    song = level * (tones[:, None] + 0.3 * rng.standard_normal((len(time), channels)))
    soundfile.write(path, song, sample_rate, subtype=subtype)
    return read(path)


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


def files(directory="."):
    """Every file below, temporary and hidden ones too, as text relative to the directory."""
    return sorted(str(path.relative_to(directory)) for path in Path(directory).rglob("*") if path.is_file())
