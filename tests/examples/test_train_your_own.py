"""The programs in examples/ do what they say."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import jaxsep
from jaxsep.metrics.sdr import global_sdr

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_your_own.py"


def sources(seed, seconds=2.0):
    """A chord, and noise above it."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(round(44100 * seconds)) / 44100
    chord = 0.1 * sum(np.sin(2 * np.pi * seconds * hz) for hz in rng.uniform(200, 2000, 5))
    noise = np.diff(0.05 * rng.standard_normal(len(seconds) + 1))
    return np.stack([np.repeat(source[:, None], 2, axis=1) for source in (chord, noise)]).astype(np.float32)


def test_a_model_is_trained_on_songs_kept_and_separates_another_song(tmp_path, monkeypatch, capsys):
    for number in range(3):
        folder = tmp_path / "songs" / f"song {number}"
        folder.mkdir(parents=True)
        for stem, source in zip(("vocals", "accompaniment"), sources(number), strict=True):
            soundfile.write(folder / f"{stem}.wav", source, 44100, subtype="FLOAT")
    checkpoint = tmp_path / "mine.safetensors"
    options = ["--steps", "30", "--batch-size", "2"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "songs"), str(checkpoint), *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert ended.value.code == 0
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", capsys.readouterr().out)]
    assert losses[-1] < 0.8 * losses[0]
    true = sources(3)
    separation = jaxsep.Separator.from_pretrained(checkpoint).separate(true.sum(axis=0), 44100)
    estimates = np.stack([separation.stems[stem] for stem in ("vocals", "accompaniment")])
    mixture = np.stack([true.sum(axis=0)] * 2)
    # In 30 steps it learns which is which.
    assert np.all(global_sdr(true, estimates) > global_sdr(true, mixture) + 3)
