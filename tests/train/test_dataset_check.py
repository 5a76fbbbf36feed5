"""The check before a run: what it says of good data, what it refuses, what it warns of."""

from pathlib import Path

import numpy as np
import pytest

from jaxsep.errors import AudioError, ConfigError
from train.dataset_check import check_tracks
from train.input_pipeline import Pipeline
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


@pytest.mark.parametrize(
    ("short", "count", "told"),
    [("pad", 2, "and padded with silence: brief (0.05 s)"), ("leave_out", 1, "and left out: brief")],
)
def test_short_tracks_are_padded_or_left_out_where_that_is_asked_for(
    config_for, tmp_path, song_int16, write, short, count, told
):
    for name, length in (("brief", 2000), ("long", 20_000)):
        write(tmp_path / name, {part: song_int16[part][-length:] for part in ("vocals", "drums")})
    config = config_for(tmp_path, f"data.short={short}")
    report = check(config)
    assert report.splits["train"][0] == count
    assert any(told in warning for warning in report.warnings)
    pipeline = Pipeline(config, find_tracks(config.data, config.model).train)
    examples = np.concatenate([pipeline.batch(step).sources for step in range(3)])
    padded = np.all(examples[:, :, 2000:] == 0, axis=(1, 2, 3))
    # Twelve examples: every track once in as many as there are tracks.
    assert padded.sum() == (6 if short == "pad" else 0)
    for example in examples[padded]:
        np.testing.assert_array_equal(example[0, :2000], song_int16["vocals"][-2000:] / np.float32(2**15))


def test_where_all_tracks_are_left_out_nothing_can_be_learned(config_for, tmp_path, song_int16, write) -> None:
    write(tmp_path / "brief", {part: song_int16[part][:2000] for part in ("vocals", "drums")})
    with pytest.raises(ConfigError, match="All tracks are shorter than an example"):
        check(config_for(tmp_path, "data.short=leave_out"))


def test_a_run_refuses_short_tracks_by_itself(config_for, tmp_path, song_int16, write) -> None:
    write(tmp_path / "brief", {part: song_int16[part][:2000] for part in ("vocals", "drums")})
    config = config_for(tmp_path)
    with pytest.raises(ConfigError, match=r"brief .* is shorter"):
        Pipeline(config, find_tracks(config.data, config.model).train)


@pytest.mark.parametrize("thorough", [False, True])
def test_samples_that_are_no_audio_are_refused_by_their_level(config_for, tmp_path, song, write, thorough) -> None:
    """As of files that hold 16-bit numbers in float; 20 dB above full scale is loud and no more than that."""
    write(tmp_path / "loud", {"vocals": 10 * song["vocals"], "drums": song["drums"]})
    check(config_for(tmp_path), thorough=thorough)
    write(
        tmp_path / "scaled",
        {"vocals": song["vocals"], "drums": song["drums"] / np.abs(song["drums"]).max() * np.float32(1e6)},
    )
    with pytest.raises(
        AudioError, match=r"scaled/drums\.wav reaches .*, 1\d\d dB above full scale, which is no music; scale"
    ):
        check(config_for(tmp_path, "data.corrupt=substitute"), thorough=thorough)


def test_prepared_data_are_refused_by_their_level_too(config_for, tmp_path, song, write) -> None:
    write(tmp_path / "songs" / "t", {"vocals": song["vocals"], "drums": song["drums"] * np.float32(1e6)})
    with pytest.raises(AudioError, match=r"t/drums\.wav reaches"):
        prepare(config_for(tmp_path / "songs").data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_everything_that_is_wrong_is_told_at_once_up_to_fifty(config_for, tmp_path, song, write) -> None:
    """Of one track two files that cannot be read, each by its name."""
    short = {part: song[part][:6000] for part in ("vocals", "drums", "bass")}
    not_finite = {
        part: np.where(np.arange(6000)[:, None] == 3000, np.nan, short[part]).astype(np.float32) for part in short
    }
    write(tmp_path / "a good one", short)
    write(tmp_path / "bad", {**short, "vocals": not_finite["vocals"], "bass": not_finite["bass"]})
    write(tmp_path / "brief", {part: audio[:100] for part, audio in short.items()})
    write(tmp_path / "rate", short, sample_rate=48000)
    write(tmp_path / "scaled", {**short, "bass": short["bass"] * np.float32(1e9)})
    with pytest.raises(ConfigError) as told:
        check(config_for(tmp_path, "validation.every_steps=5"), thorough=True)
    lines = str(told.value).splitlines()
    parts = ("bad/vocals.wav", "bad/bass.wav", "brief (0.00 s)", "rate/bass.wav (48000 Hz", "rate/drums.wav")
    for part in (*parts, "rate/vocals.wav", "scaled/bass.wav reaches", "validation.every_steps asks"):
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert lines[0] == "8 problems:" and len(lines) == 9
    for number in range(60):
        write(tmp_path / f"brief {number}", {part: audio[:100] for part, audio in short.items()})
    with pytest.raises(ConfigError) as told:
        check(config_for(tmp_path))
    lines = str(told.value).splitlines()
    assert lines[0] == "67 problems:" and len(lines) == 52 and lines[-1] == "  and 17 more."


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
