"""`jaxsep plot`: the pictures that it writes, and what it refuses. Whether they are good is for eyes to say."""

import builtins
import struct
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
from cli.conftest import files, write_song


@pytest.fixture
def song(place):
    write_song("song.wav", 2.5, sample_rate=8000)
    for stem in ("vocals", "accompaniment"):
        write_song(f"stems/{stem}.wav", 2.5, sample_rate=8000, level=0.05)
        write_song(f"true/{stem}.wav", 2.5, sample_rate=8000, level=0.06)


def test_pictures_are_written_in_both_formats(jaxsep, song):
    result = jaxsep("plot", "song.wav", "--estimates", "stems", "--truth", "true", "-o", "pictures")
    assert result.exit_code == 0, result.output
    assert files("pictures") == ["masks.png", "sdr.png", "spectrograms.png", "waveforms.png"]
    for name in files("pictures"):
        data = (Path("pictures") / name).read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", data[16:24])
        assert width > 800 and height > 300
    result = jaxsep("plot", "song.wav", "--estimates", "stems", "--format", "svg", "-o", "drawn", "--offset", "1")
    assert result.exit_code == 0, result.output
    assert files("drawn") == ["masks.svg", "spectrograms.svg", "waveforms.svg"]  # without truth no SDR
    for name in files("drawn"):
        assert xml.etree.ElementTree.parse(Path("drawn") / name).getroot().tag.endswith("svg")


def test_axes_have_labels_and_units_and_the_right_times(song):
    from jaxsep.evaluation.plots import PLOTS, make_plot

    rng = np.random.default_rng(0)
    waveforms = {stem: rng.normal(size=(20_000, 2)) for stem in ("vocals", "drums")}
    mixture = sum(waveforms.values())
    for kind in PLOTS:
        figure = make_plot(kind, mixture, {stem: 0.9 * each for stem, each in waveforms.items()}, waveforms, 8000, 5.0)
        drawn = [axis for axis in figure.axes if axis.axison]
        labels = " ".join(axis.get_xlabel() + axis.get_ylabel() for axis in drawn)
        assert "time in s" in labels
        assert {"waveforms": "amplitude", "sdr": "SDR in dB"}.get(kind, "frequency in kHz") in labels
        first, last = drawn[0].get_xlim()
        assert first == pytest.approx(5.0, abs=0.01)
        assert last == pytest.approx(7.5, abs=0.01)


def test_sdr_by_second_is_the_plain_ratio_and_nothing_where_the_truth_is_silent():
    from jaxsep.evaluation.plots import sdr_by_second

    truth = np.ones((350, 2))
    truth[100:200] = 0.0
    times, scores = sdr_by_second(truth, 0.9 * truth, 100)
    np.testing.assert_allclose(times, [0.5, 1.5, 2.5])
    # A tenth is missing: 20 dB, in float64.
    np.testing.assert_allclose(scores, [20.0, np.nan, 20.0], atol=1e-10)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--kinds", "sdr"], 2, "needs the true sources"),
        (["--kinds", "chroma"], 2, "no plot 'chroma'"),
        (["--duration", "0"], 2, "--duration is '0.0'"),
        (["--truth", "song.wav"], 2, "neither a folder of true sources nor"),
        (["--offset", "9"], 1, "beyond the end"),
        (["-o", "stems/vocals.wav"], 1, "cannot be written"),
        (["--truth", "other"], 1, "give files of one rate"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(jaxsep, song, options, status, words):
    for stem in ("vocals", "accompaniment"):
        write_song(f"other/{stem}.wav", 1.0, sample_rate=4000)
    before = files()
    result = jaxsep("plot", "song.wav", "--estimates", "stems", *options)
    assert result.exit_code == status, result.output
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert files() == before


def test_pictures_that_exist_are_kept_unless_told(jaxsep, song):
    Path("plots").mkdir()
    Path("plots/waveforms.png").write_bytes(b"mine")
    result = jaxsep("plot", "song.wav", "--estimates", "stems")
    assert result.exit_code == 2
    assert "'plots/waveforms.png' exists; use --overwrite" in result.stderr
    assert Path("plots/waveforms.png").read_bytes() == b"mine"
    assert jaxsep("plot", "song.wav", "--estimates", "stems", "--kinds", "waveforms", "--overwrite").exit_code == 0
    assert Path("plots/waveforms.png").read_bytes()[:4] == b"\x89PNG"


def test_matplotlib_that_is_not_installed_is_a_plain_error(jaxsep, song, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    result = jaxsep("plot", "song.wav", "--estimates", "stems")
    assert result.exit_code == 1
    assert "pip install 'jaxsep[plots]'" in result.stderr
    assert not Path("plots").exists()
