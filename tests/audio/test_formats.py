"""jaxsep.audio.formats against tables written out by hand, and against what libsndfile really writes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_files import tones

import jaxsep.audio.formats
from jaxsep.audio import SUBTYPES, AudioWriter, check_output, choose_subtype
from jaxsep.audio.formats import MP3_BITRATES_KBPS, mp3_bitrates
from jaxsep.errors import ConfigError


@pytest.mark.parametrize(
    ("input_subtype", "wav", "flac"),
    [
        ("PCM_16", "PCM_16", "PCM_16"),
        ("PCM_24", "PCM_24", "PCM_24"),
        ("PCM_32", "PCM_24", "PCM_24"),
        ("FLOAT", "FLOAT", "PCM_24"),
        ("DOUBLE", "FLOAT", "PCM_24"),
        ("PCM_U8", "PCM_16", "PCM_16"),
        ("ULAW", "PCM_16", "PCM_16"),
        ("ALAC_16", "PCM_16", "PCM_16"),
        ("ALAC_24", "PCM_24", "PCM_24"),
        ("VORBIS", "PCM_16", "PCM_16"),
        ("MPEG_LAYER_III", "PCM_16", "PCM_16"),
        ("AAC", "PCM_16", "PCM_16"),
        ("SOMETHING_NEW", "PCM_16", "PCM_16"),
    ],
)
def test_the_default_subtype_follows_the_input(input_subtype: str, wav: str, flac: str) -> None:
    assert choose_subtype("wav", None, input_subtype) == wav
    assert choose_subtype("flac", None, input_subtype) == flac
    assert choose_subtype("ogg", None, input_subtype) == "VORBIS"
    assert choose_subtype("mp3", None, input_subtype) == "MPEG_LAYER_III"


def test_a_requested_subtype_wins_in_any_case() -> None:
    assert choose_subtype("wav", "float", "PCM_16") == "FLOAT"
    assert choose_subtype("flac", "PCM_24", "PCM_16") == "PCM_24"


@pytest.mark.parametrize(
    ("format", "requested", "message"),
    [
        ("mp3", "PCM_16", "'mp3' cannot hold subtype 'PCM_16'; it holds MPEG_LAYER_III"),
        ("ogg", "PCM_16", "it holds VORBIS"),
        ("flac", "FLOAT", "it holds PCM_16 or PCM_24"),
        ("wav", "VORBIS", "it holds PCM_16 or PCM_24 or FLOAT"),
        ("wave", None, "no output format 'wave'.*'wav'"),
    ],
)
def test_a_subtype_that_the_format_cannot_hold_is_refused(format: str, requested: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_subtype(format, requested, "PCM_16")


@pytest.mark.parametrize(
    ("format", "subtype", "bitrate", "rate", "channels", "frames", "message"),
    [
        ("mp3", "PCM_16", None, 44100, 2, None, "cannot hold subtype 'PCM_16'"),
        ("flac", "FLOAT", None, 44100, 2, None, "cannot hold subtype 'FLOAT'"),
        ("wav", "PCM_16", 320, 44100, 2, None, "320 kbit/s.*is for mp3 and ogg; wav"),
        ("flac", "PCM_16", 320, 44100, 2, None, "is for mp3 and ogg; flac"),
        ("mp3", "MPEG_LAYER_III", 100, 44100, 2, None, "100 kbit/s; choose one of 64, 80, 96, 112, 128, 160, 192"),
        ("mp3", "MPEG_LAYER_III", 320, 22050, 2, None, "320 kbit/s; choose one of 56, 64, 80.*144, 160"),
        ("mp3", "MPEG_LAYER_III", 128, 8000, 1, None, "choose one of 24, 32, 40, 48, 56, 64"),
        ("mp3", "MPEG_LAYER_III", 32, 44100, 2, None, "32 kbit/s; choose one of 64"),
        ("mp3", "MPEG_LAYER_III", 0, 44100, 2, None, "0 kbit/s"),
        (
            "mp3",
            "MPEG_LAYER_III",
            None,
            96000,
            2,
            None,
            "no sample rate of 96000 Hz, only 8, 11.025, 12, 16, 22.05, 24",
        ),
        ("mp3", "MPEG_LAYER_III", None, 44100, 6, None, "1 to 2 channels, not 6"),
        ("wav", "PCM_16", None, 44100, 0, None, "channels, not 0"),
        ("flac", "PCM_16", None, 44100, 9, None, "1 to 8 channels, not 9"),
        ("flac", "PCM_16", None, 655351, 2, None, "1 to 655350 Hz, not 655351"),
        ("ogg", "VORBIS", None, 7999, 2, None, "8000 to 192000 Hz, not 7999"),
        ("ogg", "VORBIS", 32, 44100, 2, None, "64 to 500 kbit/s, not 32"),
        ("ogg", "VORBIS", 512, 44100, 2, None, "64 to 500 kbit/s, not 512"),
        ("wav", "PCM_16", None, 0, 2, None, "not 0"),
        ("wav", "FLOAT", None, 48000, 2, 2**29, r"cannot hold 4\.0 GiB, only 4 GiB; write flac"),
        ("wav", "PCM_24", None, 48000, 2, 10**9, r"cannot hold 5\.6 GiB"),
    ],
)
def test_what_cannot_be_written_is_refused(
    format: str, subtype: str, bitrate: int | None, rate: int, channels: int, frames: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_output(format, subtype, bitrate, rate, channels, frames)


def test_a_libsndfile_without_mp3_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxsep.audio.formats.soundfile, "available_formats", lambda: {"WAV": "", "FLAC": "", "OGG": ""})
    check_output("flac", "PCM_16", None, 44100, 2)
    with pytest.raises(ConfigError, match=r"libsndfile installed here .* cannot write mp3"):
        check_output("mp3", "MPEG_LAYER_III", None, 44100, 2)


def test_long_files_are_allowed_where_they_fit() -> None:
    check_output("flac", "PCM_24", None, 48000, 2, 2**40)
    check_output("wav", "PCM_16", None, 48000, 2, 2**29)  # three hours, 2 GiB


@pytest.mark.parametrize(
    ("format", "rates", "widths"),
    [
        ("wav", (1, 8000, 44100, 2**31 - 1), (1, 2, 6, 1024)),
        ("flac", (1, 8000, 44100, 655350), (1, 2, 6, 8)),
        ("ogg", (8000, 44100, 192000), (1, 2, 6, 255)),
        ("mp3", tuple(MP3_BITRATES_KBPS), (1, 2)),
    ],
)
def test_what_is_not_refused_is_written_by_libsndfile(
    tmp_path: Path, format: str, rates: tuple[int, ...], widths: tuple[int, ...]
) -> None:
    for subtype in SUBTYPES[format]:
        for rate in rates:
            for channels in widths:
                arguments = {"sample_rate": rate, "channels": channels, "format": format, "subtype": subtype}
                with AudioWriter(tmp_path / "a", **arguments) as writer:
                    writer.write(0.1 * tones(2000, channels=channels))
                info = soundfile.info(tmp_path / "a")
                assert (info.samplerate, info.channels, info.frames) == (rate, channels, 2000)


def test_mp3_bitrates_are_those_at_which_lame_writes_the_length(tmp_path: Path) -> None:
    """Every bitrate of the standard is tried; the others would silently make files longer than what was written."""
    path = tmp_path / "a.mp3"
    for rate, bitrates in MP3_BITRATES_KBPS.items():
        highest = {True: 320, False: 160}[rate >= 32000] if rate >= 16000 else 64
        lowest = 32 if rate >= 32000 else 8
        for channels in (1, 2):
            for bitrate in bitrates:
                level = max(0.0, (highest - bitrate - 0.5) / (highest - lowest))
                soundfile.write(
                    path,
                    np.zeros((3000, channels)),
                    rate,
                    format="MP3",
                    compression_level=level,
                    bitrate_mode="CONSTANT",
                )
                tagged = b"Info" in path.read_bytes()[:64]
                assert tagged == (bitrate in mp3_bitrates(rate, channels)), (rate, channels, bitrate)
