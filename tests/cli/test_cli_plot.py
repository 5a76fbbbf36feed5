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


def test_waveforms_fill_the_height_and_truth_and_estimate_are_both_seen(song):
    """A stem 40 dB below the mixture, one click in it, and an estimate that is the truth but for a gain."""
    from jaxsep.evaluation.plots import make_plot

    rng = np.random.default_rng(0)
    mixture, quiet = rng.uniform(-1, 1, (20_000, 2)), rng.uniform(-0.01, 0.01, (20_000, 2))
    clicked = quiet.copy()
    clicked[77] = 1.0
    figure = make_plot("waveforms", mixture, {"quiet": 0.8 * quiet, "clicked": clicked}, {"quiet": quiet}, 8000, 0.0)
    tops = [axis.get_ylim()[1] for axis in figure.axes]
    assert tops[0] == pytest.approx(1.05, abs=0.01)
    assert tops[1] == pytest.approx(0.0105, abs=2e-4)  # its own
    assert tops[2] < 0.02  # the click is cut, not the music
    row = figure.axes[1]
    # The truth is an area, and the estimate the two lines of its outline, in other colours.
    assert len(row.collections) == 1 and len(row.lines) == 2
    assert max(line.get_ydata().max() for line in row.lines) == pytest.approx(0.008, abs=1e-4)
    area, line = row.collections[0].get_facecolor()[0, :3], row.lines[0].get_color()
    assert tuple(area) != tuple(int(line[i : i + 2], 16) / 255 for i in (1, 3, 5))
    assert [text.get_text() for text in row.get_legend().get_texts()] == ["true source", "estimate"]


def test_levels_are_negative_below_the_loudest_point_which_is_0_db(song):
    from jaxsep.evaluation.plots import RANGE_DB, make_plot

    tone = np.sin(np.arange(16_000) / 3)[:, None]
    figure = make_plot("spectrograms", tone, {"a": 0.5 * tone}, {}, 8000, 0.0)
    images = [image for axis in figure.axes for image in axis.get_images()]
    assert {image.get_clim() for image in images} == {(-RANGE_DB, 0.0)}
    assert max(float(image.get_array().max()) for image in images) == pytest.approx(0.0)
    # The quieter one is 6 dB below: its level is negative, and the words are not 'below'.
    assert float(images[1].get_array().max()) == pytest.approx(-6.02, abs=0.01)
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert "level in dB, 0 at the loudest point of all" in labels


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
