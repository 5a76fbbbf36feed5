"""Odd files that work: one sample, silence, far rates, deep and loud samples, many channels, hard names; tags kept."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from cli.conftest import files, read, write_song


def separated(jaxsep, path, *options):
    """Runs the command and returns vocals and accompaniment as read back."""
    result = jaxsep("separate", path, *options)
    assert result.exit_code == 0, result.output
    folder = Path("separated") / Path(path).stem
    return [read(folder / f"{stem}.wav") for stem in ("vocals", "accompaniment")]


def test_files_shorter_than_a_window_are_separated(jaxsep):
    lengths = (1, 2, 100, 4095, 4096, 4097)
    for frames in lengths:
        write_song(f"{frames}.wav", frames / 44100)
    result = jaxsep("separate", *(f"{frames}.wav" for frames in lengths))
    assert result.exit_code == 0, result.output
    for frames in lengths:
        for stem in ("vocals", "accompaniment"):
            samples = read(f"separated/{frames}/{stem}.wav")
            assert samples.shape == (frames, 2)
            assert np.isfinite(samples).all()


@pytest.mark.parametrize("options", [(), ("--wiener",)])
def test_silence_gives_silent_stems(jaxsep, options):
    soundfile.write("silence.wav", np.zeros((30_000, 2)), 44100)
    for stem in separated(jaxsep, "silence.wav", *options):
        assert stem.shape == (30_000, 2)
        assert not stem.any()


def test_far_sample_rates_come_back(jaxsep):
    rates = (8000, 96_000, 192_000)
    mixtures = [write_song(f"{sample_rate}.wav", 0.5, sample_rate=sample_rate) for sample_rate in rates]
    result = jaxsep("separate", *(f"{sample_rate}.wav" for sample_rate in rates))
    assert result.exit_code == 0, result.output
    for sample_rate, mixture in zip(rates, mixtures, strict=True):
        vocals, accompaniment = (read(f"separated/{sample_rate}/{stem}.wav") for stem in ("vocals", "accompaniment"))
        assert soundfile.info(f"separated/{sample_rate}/vocals.wav").samplerate == sample_rate
        assert vocals.shape == accompaniment.shape == mixture.shape
        # The tones lie below 4 kHz, where the stems of a masking model sum to the mixture; the noise does not all.
        spectrum, summed = (np.abs(np.fft.rfft(audio[:, 0])) for audio in (mixture, vocals + accompaniment))
        tone = round(220 * len(mixture) / sample_rate)
        assert summed[tone] == pytest.approx(spectrum[tone], rel=0.02)  # windows' ends lie in so short a song


def test_24_bits_stay_24_bits(jaxsep):
    mixture = write_song("song.wav", 0.5, subtype="PCM_24", level=1e-3)
    vocals, accompaniment = separated(jaxsep, "song.wav")
    assert soundfile.info("separated/song/vocals.wav").subtype == "PCM_24"
    assert len(np.unique(accompaniment)) > 100  # at this level 16 bits hold 65 values
    assert vocals.shape == mixture.shape


def test_samples_above_full_scale_are_kept_in_float(jaxsep):
    mixture = write_song("song.wav", 0.5, subtype="FLOAT", level=4.0)
    vocals, accompaniment = separated(jaxsep, "song.wav")
    assert np.abs(mixture).max() > 4
    assert max(np.abs(vocals).max(), np.abs(accompaniment).max()) > 1.5
    assert soundfile.info("separated/song/vocals.wav").subtype == "FLOAT"


@pytest.mark.parametrize(("format", "channels"), [("wav", 6), ("flac", 8), ("ogg", 6), ("wav", 3)])
def test_more_than_two_channels_come_back_in_pairs_each_separated_by_itself(quick_jaxsep, format, channels):
    mixture = write_song("song.wav", 0.3, channels=channels)
    soundfile.write("pair.wav", mixture[:, :2], 44100)
    assert quick_jaxsep("separate", "song.wav", "pair.wav", "--format", format, "--quiet").exit_code == 0
    stem, pair = (read(f"separated/{name}/vocals.{format}") for name in ("song", "pair"))
    assert stem.shape == mixture.shape
    if format != "ogg":  # which is lossy
        np.testing.assert_array_equal(stem[:, :2], pair)


def test_mp3_of_more_than_two_channels_is_refused_before_work(quick_jaxsep):
    write_song("song.wav", 0.1, channels=6)
    result = quick_jaxsep("separate", "song.wav", "--format", "mp3")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "holds 1 to 2 channels, not 6" in result.stderr
    assert files() == ["song.wav"]


@pytest.mark.parametrize(
    "name",
    ["ünï ♪ 歌.wav", " leading and trailing .wav", "trailing.wav ", "-dash.wav", "a:b?c*.wav", "x" * 200 + ".wav"],
)
def test_hard_names_are_kept(quick_jaxsep, name):
    path = Path("music") / name
    path.parent.mkdir()
    write_song("plain.wav", 0.1)
    Path("plain.wav").rename(path)
    assert quick_jaxsep("separate", path, "--quiet").exit_code == 0
    track = name.removesuffix(".wav").removesuffix(".wav ") if name != "trailing.wav " else "trailing"
    assert files("separated") == [f"{track}/accompaniment.wav", f"{track}/vocals.wav"]


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3"])
def test_tags_are_copied_to_the_stems(quick_jaxsep, format):
    write_song("plain.wav", 0.3)
    with soundfile.SoundFile("song.flac", "w", 44100, 2) as file:
        file.title, file.artist, file.tracknumber = "Señorita", "Ünïcode", "3"
        file.write(read("plain.wav"))
    assert quick_jaxsep("separate", "song.flac", "--format", format, "--quiet").exit_code == 0
    with av.open(f"separated/song/vocals.{format}") as container:
        found = {key.lower(): text for key, text in (container.metadata | container.streams[0].metadata).items()}
    assert (found["title"], found["artist"], found["track"]) == ("Señorita", "Ünïcode", "3")
