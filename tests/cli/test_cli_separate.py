"""`jaxsep separate` in this process: what is written, what is printed, what is reported.

With the bundled model where a test is about what it computes, else with a small one.
"""

import json
import math
import os
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from cli.conftest import files, read, write_song

from jaxsep.separation.separator import Separator

STEP_16, STEP_24 = 2.0**-15, 2.0**-23
# Of the arrays in jaxsep/weights/data, as the catalogue publishes it.
BUNDLED_SHA256 = "a1d5ac54f6e4c35c5599964f3f1e7c6fd4424e89c3ed091b3ab651cc48020cec"


def succeeded(result):
    assert result.exit_code == 0, result.stderr
    return result


@pytest.fixture(scope="session")
def library():
    """The same model through the library: arrays in, arrays out."""
    return Separator.from_pretrained("spleeter-2stems")


def test_a_song_becomes_the_stems_that_the_library_computes(jaxsep, library):
    mixture = write_song("a/song.wav")
    result = succeeded(jaxsep("separate", "a/song.wav"))
    assert files("separated") == ["song/accompaniment.wav", "song/vocals.wav"]
    expected = library.separate(mixture, 44100).stems
    for stem in ("vocals", "accompaniment"):
        path = Path("separated/song") / f"{stem}.wav"
        assert soundfile.info(path).subtype == "PCM_16"
        written = read(path)
        assert written.shape == mixture.shape
        # Half a step of 16 bits, and what one order of the last additions differs from another by.
        assert np.abs(written - expected[stem]).max() <= STEP_16 / 2 + 1e-6
    # Neither stem is trivial: each holds a part of the song.
    assert all(0.001 < np.abs(stem).max() < 1 for stem in expected.values())
    platform = jax.devices()[0].platform
    assert result.stdout.startswith(f"vocals, accompaniment are in separated/song ({platform}: ")
    assert result.stdout.endswith(" times faster than real time)\n") and result.stdout.count("\n") == 1
    assert "; 1.0 s of audio in " in result.stdout
    assert result.stderr == ""


def test_selection_stretch_names_and_residual_of_a_long_flac(quick_jaxsep):
    mixture = write_song("long.flac", 60, subtype="PCM_16")
    succeeded(
        quick_jaxsep(
            *["separate", "long.flac", "-o", "out", "--format", "flac", "--subtype", "PCM_24", "--stems", "vocals"],
            *["--residual", "--offset", "31.5", "--duration", "0.75", "--filename", "{stem} of {track}.{ext}"],
        )
    )
    assert files("out") == ["residual of long.flac", "vocals of long.flac"]
    stems = [read(f"out/{name} of long.flac") for name in ("vocals", "residual")]
    assert {soundfile.info(f"out/{name}").subtype for name in files("out")} == {"PCM_24"}
    start, length = round(31.5 * 44100), round(0.75 * 44100)
    assert [len(stem) for stem in stems] == [length, length]
    # Each of the two is rounded to the nearest of 24 bits; their sum in float32 is rounded once more.
    np.testing.assert_allclose(sum(stems), mixture[start : start + length], atol=STEP_24 + 1e-7)


def test_mp3_and_ogg_of_mono_at_another_rate_have_the_length_of_the_input(quick_jaxsep):
    write_song("song.wav", 1.2345, sample_rate=48000, channels=1)
    frames = round(1.2345 * 48000)
    for options in (["--format", "mp3", "--bitrate", "128"], ["--format", "ogg", "--sample-rate", "input"]):
        succeeded(quick_jaxsep("separate", "song.wav", "--overwrite", *options))
    for name in ("vocals.mp3", "vocals.ogg", "accompaniment.mp3", "accompaniment.ogg"):
        info = soundfile.info(f"separated/song/{name}")
        assert (info.samplerate, info.channels, info.frames) == (48000, 1, frames), name
    # 128 kbit/s, constant, is 16000 bytes a second; a frame of 24 ms more or two hold what does not fill one.
    size = Path("separated/song/vocals.mp3").stat().st_size
    assert abs(size - 16000 * 1.2345) < 3 * 16000 * 0.024


def test_wiener_writes_what_the_library_filters(jaxsep, library):
    mixture = write_song("song.wav")
    succeeded(jaxsep("separate", "song.wav", "--wiener", "--subtype", "FLOAT", "--report", "report.json"))
    filtered = Separator(library.model, filter="wiener").separate(mixture, 44100).stems
    masked = library.separate(mixture, 44100).stems
    for stem, expected in filtered.items():
        written = read(f"separated/song/{stem}.wav")
        # The same programs on the same samples.
        np.testing.assert_allclose(written, expected, atol=1e-6)
        assert np.abs(expected - masked[stem]).max() > 1e-3
    assert json.loads(Path("report.json").read_text())["options"]["filter"] == "wiener"


def test_loud_stems_warn_or_are_rescaled_by_one_gain_and_still_sum(jaxsep):
    mixture = write_song("loud.wav", level=1.5, subtype="FLOAT")
    assert np.abs(mixture).max() > 2
    clipped = succeeded(jaxsep("separate", "loud.wav", "--subtype", "PCM_16"))
    assert "samples of 'accompaniment' lie beyond full scale" in clipped.stderr
    assert "--clip rescale" in clipped.stderr
    options = ["--consistency", "project", "--clip", "rescale", "--report", "r.json", "--overwrite"]
    rescaled = succeeded(jaxsep("separate", "loud.wav", *options))
    assert rescaled.stderr == ""
    gain = json.loads(Path("r.json").read_text())["files"][0]["gain"]
    stems = [read(f"separated/loud/{stem}.wav") for stem in ("vocals", "accompaniment")]
    assert np.abs(stems).max() == pytest.approx(1 - STEP_16, abs=1e-6)
    # Sums of float32 of size 4 in an unknown order, then one multiplication.
    np.testing.assert_allclose(sum(stems), gain * mixture, atol=3e-6)


def test_a_bad_input_fails_alone(quick_jaxsep):
    write_song("one.wav", 0.5)
    write_song("two.wav", 0.5)
    Path("notes.wav").write_text("these are no samples\n")
    Path("empty.wav").touch()
    os.mkfifo("pipe.wav")
    inputs = ["one.wav", "missing.wav", "notes.wav", "empty.wav", "pipe.wav", "two.wav"]
    result = quick_jaxsep("separate", *inputs, "--report", "report.json")
    assert result.exit_code == 1
    messages = result.stderr.splitlines()
    assert len(messages) == 4 and all(message.startswith("jaxsep: ") for message in messages)
    for name, message in zip(inputs[1:5], messages, strict=True):
        assert name in message and message.endswith((".", "?"))
    assert files("separated") == [
        f"{song}/{stem}.wav" for song in ("one", "two") for stem in ("accompaniment", "vocals")
    ]
    assert {path.name for path in Path("separated").iterdir()} == {"one", "two"}
    assert "vocals, accompaniment of 2 files are in separated (" in result.stdout
    reported = json.loads(Path("report.json").read_text())["files"]
    assert [entry["input"] for entry in reported] == inputs
    assert [entry["status"] for entry in reported] == ["done", *["failed"] * 4, "done"]
    assert [f"jaxsep: {entry['error']}" for entry in reported[1:5]] == messages


def test_when_all_inputs_fail_nothing_is_claimed_and_nothing_is_written(quick_jaxsep):
    write_song("short.wav", 0.5)
    result = quick_jaxsep("separate", "short.wav", "--offset", "10", "--report", "report.json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("jaxsep: The offset of 10.000 s lies beyond the end of short.wav")
    assert files() == ["report.json", "short.wav"] and not Path("separated").exists()


def test_quiet_prints_errors_only(jaxsep):
    write_song("loud.wav", 0.5, level=1.5, subtype="FLOAT")
    write_song("done.wav", 0.5)
    succeeded(jaxsep("separate", "done.wav", "--quiet"))
    # A warning (clipping), a skipped input and a summary would all be printed without it.
    arguments = ["separate", "loud.wav", "done.wav", "missing.wav", "--subtype", "PCM_16", "--skip-existing", "--quiet"]
    result = jaxsep(*arguments)
    assert result.exit_code == 1
    assert (result.stdout, result.stderr) == ("", "jaxsep: There is no file missing.wav.\n")
    assert len(files("separated")) == 4


def test_existing_stems_are_skipped_completed_or_overwritten_with_the_same_bytes(quick_jaxsep):
    write_song("song.wav", 0.5)
    succeeded(quick_jaxsep("separate", "song.wav"))
    paths = [Path("separated/song/vocals.wav"), Path("separated/song/accompaniment.wav")]
    first = [path.read_bytes() for path in paths]
    for path in paths:
        os.utime(path, (1, 1))

    skipped = succeeded(quick_jaxsep("separate", "song.wav", "--skip-existing", "--report", "report.json"))
    assert skipped.stdout == "" and skipped.stderr == "song.wav: skipped, all its stems are there\n"
    assert json.loads(Path("report.json").read_text())["files"] == [{"input": "song.wav", "status": "skipped"}]
    assert [path.stat().st_mtime for path in paths] == [1, 1]

    # One stem is not all stems: the input is separated.
    paths[1].unlink()
    succeeded(quick_jaxsep("separate", "song.wav", "--skip-existing"))
    assert [path.read_bytes() for path in paths] == first

    paths[0].write_bytes(b"something else")
    succeeded(quick_jaxsep("separate", "song.wav", "--overwrite"))
    assert [path.read_bytes() for path in paths] == first
    assert files("separated") == ["song/accompaniment.wav", "song/vocals.wav"]


def test_names_with_spaces_marks_and_dots_are_kept(quick_jaxsep):
    name = "Été №1 [red] {x} ½ feat. Ωmega (live). v2"
    write_song(f"my songs/{name}.wav", 0.5)
    result = succeeded(quick_jaxsep("separate", f"my songs/{name}.wav", "-o", "die Stücke"))
    assert files("die Stücke") == [f"{name}/accompaniment.wav", f"{name}/vocals.wav"]
    assert f"are in die Stücke/{name} (" in result.stdout


def test_a_file_that_is_cut_short_is_separated_as_far_as_it_goes_and_says_so(quick_jaxsep):
    write_song("song.wav", 1.0)
    whole = Path("song.wav").read_bytes()
    Path("cut.wav").write_bytes(whole[: len(whole) // 2])
    result = succeeded(quick_jaxsep("separate", "cut.wav", "--report", "report.json"))
    assert result.stderr.startswith("warning: cut.wav is cut short or damaged: ")
    (entry,) = json.loads(Path("report.json").read_text())["files"]
    assert [f"warning: {warning}\n" for warning in entry["warnings"]] == [result.stderr]
    # 44 bytes of header, four bytes a frame.
    assert len(read("separated/cut/vocals.wav")) == (len(whole) // 2 - 44) // 4 == entry["stems"]["vocals"]["frames"]


def test_the_report_says_what_was_done_with_what(jaxsep):
    write_song("song.wav", 0.75, subtype="FLOAT")
    succeeded(jaxsep("separate", "song.wav", "--residual", "--report", "reports/one.json"))
    report = json.loads(Path("reports/one.json").read_text())
    assert set(report) == {
        *("versions", "processor", "device", "model", "options", "compilation", "peak_memory_bytes", "files")
    }
    for package in ("jaxsep", "jax", "jaxlib", "flax", "numpy", "soundfile", "soxr", "av", "safetensors"):
        assert report["versions"][package] == metadata.version(package)
    assert report["device"] == {"platform": jax.devices()[0].platform, "kind": jax.devices()[0].device_kind}
    assert report["model"]["sha256"] == BUNDLED_SHA256
    spec = report["model"]["spec"]
    assert (spec["name"], spec["stems"], spec["sample_rate"]) == (
        "spleeter-2stems",
        ["vocals", "accompaniment"],
        44100,
    )
    # Every option of the command line, in full, so that the run can be repeated.
    assert report["options"] == {
        **{
            "format": "wav",
            "subtype": None,
            "bitrate_kbps": None,
            "sample_rate": "input",
            "filename": "{track}/{stem}.{ext}",
        },
        **{
            "offset_seconds": 0.0,
            "duration_seconds": None,
            "audio_track": None,
            "stems": None,
            "residual": True,
            "consistency": "none",
        },
        **{"two_stems": None, "other_method": "minus"},
        **{"clip": "none", "existing": "refuse", "batch_size": report["options"]["batch_size"]},
        **{"chunk_seconds": None, "overlap": None, "shifts": None, "seed": 0, "filter": "auto"},
        **{"wiener_iterations": None, "precision": "float32"},
    }
    assert report["options"]["batch_size"] >= 1
    assert report["compilation"]["cache_hits"] + report["compilation"]["cache_misses"] >= 1
    # The weights alone are 19.6 million numbers of four bytes.
    assert report["peak_memory_bytes"] > 4 * 19_600_000
    (entry,) = report["files"]
    assert (entry["input"], entry["status"], entry["warnings"]) == ("song.wav", "done", [])
    assert (entry["duration_seconds"], entry["sample_rate"], entry["channels"]) == (0.75, 44100, 2)
    assert (entry["subtype"], entry["gain"]) == ("FLOAT", 1.0)
    timings = entry["timings_seconds"]
    assert set(timings) == {"decode", "compile", "compute", "encode", "total"}
    assert all(seconds > 0 for seconds in timings.values())
    assert list(entry["stems"]) == ["vocals", "accompaniment", "residual"]
    for name, stem in entry["stems"].items():
        assert stem["path"] == f"separated/song/{name}.wav"
        samples = read(stem["path"]).astype(np.float64)
        assert (stem["frames"], stem["clipped"]) == (len(samples), 0)
        assert stem["peak"] == np.abs(samples).max()
        # Squares are added in float32 in pieces of 32768: relative errors far below 1e-5.
        assert stem["rms"] == pytest.approx(math.sqrt(np.mean(samples**2)), rel=1e-5)


def test_a_report_is_replaced_by_the_next(quick_jaxsep):
    write_song("song.wav", 0.5)
    Path("report.json").write_text("{}")
    succeeded(quick_jaxsep("separate", "song.wav", "--report", "report.json"))
    assert json.loads(Path("report.json").read_text())["files"][0]["status"] == "done"
    assert not [name for name in files() if "part" in name]


@pytest.mark.parametrize("format", ["flac", "ogg", "mp3"])
def test_the_same_command_gives_the_same_samples(quick_jaxsep, format):
    write_song("song.wav", 0.5)
    for directory in ("first", "second"):
        succeeded(quick_jaxsep("separate", "song.wav", "-o", directory, "--format", format))
    assert files("first") == files("second") == [f"song/accompaniment.{format}", f"song/vocals.{format}"]
    for name in files("first"):
        np.testing.assert_array_equal(read(f"first/{name}"), read(f"second/{name}"))
        if format == "flac":
            assert Path("first", name).read_bytes() == Path("second", name).read_bytes()


def test_the_batch_size_changes_nothing_but_rounding(jaxsep):
    write_song("song.wav", 13)  # two chunks
    for size in (1, 2):
        succeeded(jaxsep("separate", "song.wav", "-o", f"by{size}", "--batch-size", size, "--subtype", "FLOAT"))
    for stem in ("vocals", "accompaniment"):
        # Convolutions over two chunks may add in another order; 1e-5 of full scale is 100 dB below it.
        np.testing.assert_allclose(read(f"by1/song/{stem}.wav"), read(f"by2/song/{stem}.wav"), atol=1e-5)


def test_a_full_disk_fails_with_a_sentence_and_leaves_nothing(quick_jaxsep, monkeypatch):
    write_song("song.wav", 0.5)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxsep.separation.track._Spool.append", full)
    result = quick_jaxsep("separate", "song.wav", "--clip", "rescale")
    assert result.exit_code == 1
    assert (result.stdout, result.stderr) == ("", "jaxsep: song.wav: No space left on device.\n")
    assert files() == ["song.wav"]
