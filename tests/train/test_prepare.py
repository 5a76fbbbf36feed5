"""Prepared data sets: the same samples as the files, whole or not at all."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soxr

from jaxsep.errors import AudioError, ConfigError
from train.config import DataConfig
from train.prepare import prepare
from train.tracks import find_tracks

ROOT = Path(__file__).parents[2]


def data(root: Path, **keys) -> DataConfig:
    return DataConfig(root=str(root), **keys)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "train.prepare", *map(str, arguments)]


def test_prepared_tracks_equal_their_files_sample_for_sample(config_for, folders, tmp_path) -> None:
    index, warnings = prepare(data(folders), tmp_path / "out")
    assert warnings == [] and {entry.dtype for entry in index.tracks} == {"int16"}
    before, after = (find_tracks(config_for(root).data, config_for(root).model) for root in (folders, tmp_path / "out"))
    assert after.names == before.names
    for files, prepared in zip((*before.train, *before.validation), (*after.train, *after.validation), strict=True):
        assert (files.name, files.length) == (prepared.name, prepared.length)
        # Within a block of 65536, over the edges of two and of four, the end, and beyond it.
        for start, length in ((0, 100), (65530, 20), (60000, 150000), (268288 - 5, 5), (268288 - 5, 50), (300000, 9)):
            np.testing.assert_array_equal(prepared.read(start, length), files.read(start, length))
            np.testing.assert_array_equal(prepared.read(start, length, only=1), files.read(start, length)[1:])
    assert [len(after.train), len(after.validation)] == [2, 1]


def test_lossy_files_beyond_full_scale_are_kept_in_float(config_for, musdb18, tmp_path, song) -> None:
    assert max(np.abs(audio).max() for audio in song.values()) > 1  # the reason for float
    index, _ = prepare(data(musdb18), tmp_path / "out")
    assert {entry.dtype for entry in index.tracks} == {"float32"}
    assert [entry.split for entry in index.tracks] == ["train", "valid"]
    config = config_for(tmp_path / "out", "data.mixture=file")
    track = find_tracks(config.data, config.model).train[0]
    np.testing.assert_array_equal(track.read(0, 268288)[0], song["vocals"])
    np.testing.assert_array_equal(track.read_mixture(100, 268000), song["mixture"][100:268100])
    with pytest.raises(ConfigError, match="exceeds full scale; use --dtype float32 or auto"):
        prepare(data(musdb18), tmp_path / "narrow", dtype="int16")
    assert not (tmp_path / "narrow").exists()


def test_rates_and_channels_are_converted_as_soxr_converts_the_whole(config_for, tmp_path, song_int16, write) -> None:
    write(tmp_path / "in/t", {"vocals": song_int16["vocals"]}, sample_rate=48000)
    write(tmp_path / "in/t", {"drums": song_int16["drums"][:, :1]})
    prepare(data(tmp_path / "in"), tmp_path / "out", dtype="float32")
    config = config_for(tmp_path / "out")
    track = find_tracks(config.data, config.model).train[0]
    vocals, drums = track.read(0, track.length)
    expected = soxr.resample(song_int16["vocals"] / np.float32(2**15), 48000, 44100, quality="HQ")
    # soxr as a stream rounds differently from soxr at once.
    np.testing.assert_allclose(vocals[: len(expected)], expected, rtol=0, atol=2e-6)
    mono = song_int16["drums"][:, :1] / np.float32(2**15)
    np.testing.assert_array_equal(drums, np.repeat(mono, 2, axis=1))


def test_stereo_becomes_its_mean_in_one_channel(tmp_path, song_int16, write) -> None:
    write(tmp_path / "in/t", {name: song_int16[name] for name in ("vocals", "drums")})
    prepare(data(tmp_path / "in"), tmp_path / "out", channels=1, dtype="float32")
    from train.tracks import find_recordings

    recording = find_recordings(data(tmp_path / "out")).train[0]
    expected = song_int16["vocals"].astype(np.float64).mean(axis=1, keepdims=True) / 2**15
    # A sum and a half in float32.
    np.testing.assert_allclose(recording.read(["vocals"], 0, recording.length)[0], expected, rtol=0, atol=1e-7)


def test_the_index_names_sizes_and_hashes_of_its_files(folders, tmp_path) -> None:
    prepare(data(folders), tmp_path / "out")
    index = json.loads((tmp_path / "out/dataset.json").read_text())
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*(each["file"] for each in index["tracks"]), "dataset.json"])
    for entry in index["tracks"]:
        content = (tmp_path / "out" / entry["file"]).read_bytes()
        assert (entry["size"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_damaged_prepared_data_are_refused(config_for, folders, tmp_path) -> None:
    out = tmp_path / "out"
    prepare(data(folders), out)
    config = config_for(out)
    path = out / "00000.array_record"
    whole = path.read_bytes()

    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    track = find_tracks(config.data, config.model).train[0]
    with pytest.raises(AudioError, match=r"00000\.array_record cannot be read .*hash mismatch.*prepare the data again"):
        track.read(0, track.length)

    path.write_bytes(whole[:-1])
    with pytest.raises(AudioError, match=rf"has {len(whole) - 1} bytes and had {len(whole)}"):
        find_tracks(config.data, config.model)
    path.unlink()
    with pytest.raises(AudioError, match="No such file"):
        find_tracks(config.data, config.model)

    for text, message in (("{", "is not JSON"), ("[]", "version None"), ('{"format_version": 9}', "version 9")):
        (out / "dataset.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            find_tracks(config.data, config.model)


def test_what_is_there_is_replaced_only_where_asked_and_only_if_prepared(folders, tmp_path) -> None:
    out = tmp_path / "out"
    prepare(data(folders), out)
    with pytest.raises(ConfigError, match="exists; use --overwrite"):
        prepare(data(folders), out)
    with pytest.raises(ConfigError, match="is prepared already"):
        prepare(data(out), tmp_path / "again")
    before = (out / "dataset.json").read_bytes()
    prepare(data(folders, validation_tracks=("first",)), out, overwrite=True)
    assert (out / "dataset.json").read_bytes() != before
    with pytest.raises(ConfigError, match="no prepared data set: name another folder"):
        prepare(data(folders), folders, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["folders", "out"]


def test_a_folder_that_came_to_exist_while_tracks_were_prepared_is_not_replaced(folders, tmp_path) -> None:
    out = tmp_path / "out"

    def somebody(*_: object) -> None:
        out.mkdir(exist_ok=True)
        (out / "theirs").touch()

    with pytest.raises(AudioError, match=r"out' came to exist.*kept as '.*out\.2'"):
        prepare(data(folders), out, progress=somebody)
    assert os.listdir(out) == ["theirs"] and (tmp_path / "out.2/dataset.json").is_file()
    assert sorted(os.listdir(tmp_path)) == ["folders", "out", "out.2"]


def test_a_file_that_cannot_be_decoded_leaves_nothing_behind(folders, tmp_path) -> None:
    path = folders / "train/second/bass.wav"
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"bass\.wav is cut short or damaged: .*; mend it or take the track away"):
        prepare(data(folders), tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["folders"]


def test_everything_that_is_wrong_is_told_at_once(folders, tmp_path, song, write, song_int16) -> None:
    """Files that cannot be opened, files of one track that cannot be decoded to their end, channels, and levels."""
    for part in ("bass", "vocals"):
        path = folders / f"train/second/{part}.wav"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (folders / "train/first/drums.wav").write_bytes(b"no audio")
    write(folders / "train/wide", {name: np.tile(audio, (1, 3)) for name, audio in song_int16.items()})
    write(folders / "train/loud", {name: song[name] * np.float32(1e6) for name in song_int16})
    with pytest.raises(ConfigError) as met:
        prepare(data(folders), tmp_path / "out")
    lines = str(met.value).splitlines()
    for told in (
        r"drums\.wav ",
        r"second/bass\.wav is cut short or damaged: .*; mend it or take the track away",
        r"second/vocals\.wav is cut short or damaged: .*; mend it or take the track away",
        r"wide/\w+\.wav has 6 channels, which cannot become 2; mix it down first",
        r"loud/\w+\.wav",
    ):
        assert any(re.search(told, line) for line in lines[1:]), (told, lines)
    assert lines[0] == f"{len(lines) - 1} problems:"
    assert sorted(os.listdir(tmp_path)) == ["folders"]


def test_a_full_disk_leaves_nothing_behind(folders, tmp_path) -> None:
    # No file may become longer than 3 MB; each track takes 5.
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20));"
        "from train.prepare import app; app(sys.argv[1:])"
    )
    arguments = [sys.executable, "-c", limited, str(folders), str(tmp_path / "out")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot be written: write() failed: File too large" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["folders"]


def test_the_command_says_what_it_made_and_what_it_refuses(folders, tmp_path) -> None:
    arguments = command(folders, tmp_path / "out", "--validation-track", "first")
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"1 track to train and 1 to validate on are in {tmp_path / 'out'} (")
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "use --overwrite" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_nothing_behind(folders, tmp_path, number, write, song_int16) -> None:
    long = {name: np.tile(audio, (20, 1)) for name, audio in song_int16.items()}
    write(folders / "train/long", long)
    process = subprocess.Popen(command(folders, tmp_path / "out"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 30
    while not list(tmp_path.glob(".out.*/*")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in told
    assert sorted(os.listdir(tmp_path)) == ["folders"]
