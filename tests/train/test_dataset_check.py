"""The check before a run: what it says of good data, what it refuses, what it warns of."""

from pathlib import Path

import numpy as np
import pytest

from jaxsep.errors import ConfigError
from train.dataset_check import check_tracks
from train.prepare import prepare
from train.tracks import find_tracks


def check(config, *, thorough: bool = False):
    return check_tracks(find_tracks(config.data, config.model), config, thorough=thorough)


def halves(song_int16, **changes):
    """Three parts whose sum is the mixture."""
    parts = {name: song_int16[name] for name in ("vocals", "drums", "bass")}
    total = np.sum([part.astype(np.int64) for part in parts.values()], axis=0).astype(np.int16)
    return {**parts, "mixture": total, **changes}


def test_good_tracks_are_described_and_not_warned_of(config_for, folders) -> None:
    report = check(config_for(folders, "validation.every_steps=10"))
    assert report.warnings == ()
    # The song has 268288 samples at 44100 Hz: 6.08 s.
    assert report.splits == {"train": (2, 2 * 268288 / 44100 / 3600), "validation": (1, 268288 / 44100 / 3600)}
    assert (report.sources, round(report.shortest_seconds, 2)) == (("vocals", "accompaniment"), 6.08)
    lines = report.describe().splitlines()
    assert lines[0].split() == ["train", "2", "tracks", "0.00", "h"]
    assert "44100 Hz, 2 channels" in lines[2] and "8 excerpts of 0.5 s" in lines[2]
    assert "every sample" in check(config_for(folders), thorough=True).describe()


def test_validation_without_tracks_for_it_is_refused(config_for, folders) -> None:
    (folders / "valid").rename(folders / "elsewhere")
    with pytest.raises(ConfigError, match=r"validation\.every_steps asks for validation, and no track is kept"):
        check(config_for(folders, "validation.every_steps=10"))
    assert check(config_for(folders)).splits["validation"] == (0, 0.0)


def test_no_track_left_to_learn_from_is_refused(config_for, folders) -> None:
    with pytest.raises(ConfigError, match="No track is left to learn from"):
        check(config_for(folders, "data.validation_tracks=[first, second, third]"))


@pytest.mark.parametrize(("rate", "channels"), [(48000, 2), (44100, 1)])
def test_another_format_than_the_models_is_refused_with_the_command_that_converts(
    config_for, tmp_path, song_int16, write, rate, channels
) -> None:
    write(tmp_path / "t", {"vocals": song_int16["vocals"]})
    write(tmp_path / "t", {"drums": song_int16["drums"][:, :channels]}, sample_rate=rate)
    plural = "s" * (channels > 1)
    with pytest.raises(ConfigError, match=rf"drums\.wav \({rate} Hz, {channels} channel{plural}\).* train\.prepare"):
        check(config_for(tmp_path))


def test_tracks_shorter_than_an_example_are_refused(config_for, tmp_path, song_int16, write) -> None:
    write(tmp_path / "t", {name: song_int16[name][:4300] for name in ("vocals", "drums")})
    check(config_for(tmp_path, "augment.shift=12"))  # 4288 + 12 samples are just enough
    with pytest.raises(ConfigError, match=r"An example takes 0\.10 s, and t \(0\.10 s\) is shorter"):
        check(config_for(tmp_path, "augment.shift=13"))
    with pytest.raises(ConfigError, match=r"An example takes 0\.24 s, and t"):
        check(config_for(tmp_path, "augment.stretch=0.5"))


def test_a_mixture_that_is_asked_for_and_not_there_is_refused(config_for, tmp_path, song_int16, write) -> None:
    write(tmp_path / "t", {name: song_int16[name] for name in ("vocals", "drums")})
    with pytest.raises(ConfigError, match=r"data\.mixture is 'file', and t has none"):
        check(config_for(tmp_path, "data.mixture=file"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_found_by_the_thorough_check(config_for, tmp_path, song, write, value) -> None:
    vocals = song["vocals"].copy()
    vocals[100000, 1] = value
    write(tmp_path / "t", {"vocals": vocals, "drums": song["drums"]})
    with pytest.raises(ConfigError, match=rf"vocals\.wav holds {value} at 2\.267574 s in channel 2.* mend it"):
        check(config_for(tmp_path), thorough=True)
    report = check(config_for(tmp_path, "data.corrupt=substitute"), thorough=True)
    assert any("vocals.wav holds" in warning for warning in report.warnings)


def test_silent_stems_are_told(config_for, tmp_path, song_int16, write) -> None:
    write(tmp_path / "t", halves(song_int16, bass=0 * song_int16["bass"]))
    for thorough in (False, True):
        found = [warning for warning in check(config_for(tmp_path), thorough=thorough).warnings if "Silent" in warning]
        assert len(found) == 1 and "bass of t" in found[0]


def test_a_mixture_that_is_not_the_sum_is_told_with_the_difference_in_db(config_for, tmp_path, song_int16, write):
    write(tmp_path / "good", halves(song_int16))
    quiet = halves(song_int16)
    write(tmp_path / "quieter", {**quiet, "mixture": (quiet["mixture"] // 2).astype(np.int16)})
    (warning,) = check(config_for(tmp_path), thorough=True).warnings
    # Half the sum is missing: as much as the mixture's file has, 0 dB.
    assert "in quieter; the difference reaches 0.0 dB" in warning or "reaches -0.0 dB" in warning


def test_parts_of_unequal_length_and_a_single_track_are_told(config_for, tmp_path, song_int16, write) -> None:
    write(tmp_path / "t", {"vocals": song_int16["vocals"][:200000], "drums": song_int16["drums"]})
    one, lengths = sorted(check(config_for(tmp_path)).warnings, reverse=True)
    assert "one track to learn from, 't'" in one
    assert "t (drums 268288, vocals 200000)" in lengths


def test_files_that_are_decoded_from_their_beginning_are_told(config_for, musdb18) -> None:
    warnings = check(config_for(musdb18)).warnings
    assert any("decoded from the beginning" in warning and "train.prepare" in warning for warning in warnings)


def test_a_flipped_bit_in_prepared_data_is_found_by_the_thorough_check(config_for, folders, tmp_path) -> None:
    out = tmp_path / "prepared"
    prepare(config_for(folders).data, out)
    damage(out / "00001.array_record", -10)  # behind the last record, where reading finds nothing wrong
    check(config_for(out))
    with pytest.raises(ConfigError, match=r"00001\.array_record is not what was written"):
        check(config_for(out), thorough=True)


def test_missing_python_stretch_is_refused_before_the_run(config_for, folders, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "python_stretch", None)
    with pytest.raises(ConfigError, match=r"pip install 'jaxsep\[augment\]'"):
        check(config_for(folders, "augment.stretch=1"))


def damage(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
