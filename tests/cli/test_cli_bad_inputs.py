"""Bad files: one sentence, a status that is not 0, clean streams, nothing half-written; cut files as far as they go.

In processes of their own where decoders may write to the file descriptor of standard error.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import soundfile
import torch
from cli.conftest import SCRIPT, files, read, write_song
from weights.small_models import small_spec, small_variables

from jaxsep.weights.checkpoint import save_checkpoint


def refused(done, status, *words):
    """One sentence on standard error, none of it a traceback or a decoder's note; nothing on standard output."""
    assert (done.returncode if isinstance(done, subprocess.CompletedProcess) else done.exit_code) == status, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("jaxsep: ") and lines[0].endswith((".", "?")), done.stderr
    for word in words:
        assert word in lines[0]
    assert done.stdout == ""


def bad_inputs():
    """What each file is made of, and the words that its refusal holds."""
    nan = np.zeros((44100, 2), np.float32)
    nan[11025] = np.nan
    infinite = np.zeros((44100, 1), np.float32)
    infinite[22050] = -np.inf
    return {
        "missing.wav": (None, ["no file missing.wav"]),
        "empty.wav": (b"", ["empty.wav is empty"]),
        "text.mp3": (b"these are no samples\n" * 100, ["text.mp3 is not audio"]),
        "noise.flac": (
            np.random.default_rng(0).bytes(50_000),
            ["noise.flac is not audio that libsndfile or FFmpeg can read"],
        ),
        "frameless.wav": (np.zeros((0, 2), np.float32), ["frameless.wav", "no samples"]),
        "nan.wav": (nan, ["nan.wav holds nan at 0.25"]),
        "infinite.wav": (infinite, ["infinite.wav holds -inf at 0.5"]),
        "header.flac": (b"fLaC" + bytes(60), ["header.flac"]),
        "picture.png": (b"\x89PNG\r\n\x1a\n" + bytes(1000), ["picture.png"]),
        "playlist.m3u": (b"#EXTM3U\n/etc/passwd\nhttp://localhost:1/\n", ["playlist.m3u"]),
    }


def write_bad(name):
    content, words = bad_inputs()[name]
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif content is not None:
        soundfile.write(name, content, 44100, subtype="FLOAT")
    return words


# One that is not there, one that nothing opens, which decoders may have something to say about, one that fails in its
# middle.
@pytest.mark.parametrize("name", ["missing.wav", "noise.flac", "nan.wav"])
def test_a_bad_file_is_one_sentence(process, quick_jaxsep, place, name):
    words = write_bad(name)
    before = files()
    refused((process if name == "noise.flac" else quick_jaxsep)("separate", name), 1, *words)
    assert files() == before
    assert not Path("separated").exists()


def test_every_bad_file_is_one_sentence_and_none_stops_the_others(process, small_model, place):
    """In one process, which takes seconds to start."""
    words = {name: write_bad(name) for name in bad_inputs()}
    before = files()
    done = process("separate", *words, "-m", small_model)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == len(words), done.stderr
    for name in words:
        (line,) = [line for line in done.stderr.splitlines() if name in line]
        assert line.startswith("jaxsep: ") and line.endswith((".", "?"))
        assert all(word in line for word in words[name]), line
    assert files() == before
    assert not Path("separated").exists()


@pytest.mark.parametrize("place_of_output", ["song.wav", "song.wav/below", "dangling", "/proc/here"])
def test_an_output_directory_that_cannot_be_written_is_one_sentence(quick_jaxsep, place, place_of_output):
    write_song("song.wav", 0.1)
    os.symlink("nowhere/at/all", "dangling")
    done = quick_jaxsep("separate", "song.wav", "-o", place_of_output)
    refused(done, done.exit_code, place_of_output)
    assert done.exit_code in (1, 2)
    assert files() == ["song.wav"]


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(place, small_model, format):
    """A process may write files of 100 kB, and the stems are longer."""
    write_song("song.wav", 4.0)
    # By the shell: forking a process that has threads warns, and bash counts in KiB.
    command = f"ulimit -f 98; exec '{SCRIPT}' separate song.wav -m {small_model} --format {format}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    refused(done, 1, "cannot be written", "File too large")
    assert files() == ["song.wav"]
    assert not Path("separated").exists()


def test_what_the_run_made_before_it_failed_is_taken_away_and_what_was_there_stays(quick_jaxsep, place):
    write_song("song.wav", 0.1)
    Path("separated/other").mkdir(parents=True)
    Path("separated/other/vocals.wav").write_text("mine")
    Path("nan.wav").write_bytes(b"")
    assert quick_jaxsep("separate", "nan.wav", "song.wav").exit_code == 1
    assert sorted(path.name for path in Path("separated").iterdir()) == ["other", "song"]
    assert Path("separated/other/vocals.wav").read_text() == "mine"


def test_cut_files_are_separated_as_far_as_they_go_and_the_report_says_so(process, small_model, place):
    """In one process, which takes seconds to start."""
    mixture = write_song("whole.wav", 3.0)
    names = [f"{format}.{format}" for format in ("wav", "flac", "ogg", "mp3")]
    for name in names:
        soundfile.write(name, mixture, 44100)
        data = Path(name).read_bytes()
        Path(name).write_bytes(data[: len(data) * 2 // 3])
    done = process("separate", *names, "-m", small_model, "--report", "report.json")
    assert done.returncode == 0, done.stderr
    warnings = done.stderr.splitlines()
    entries = json.loads(Path("report.json").read_text())["files"]
    for name, warning, entry in zip(names, warnings, entries, strict=True):
        assert warning.startswith(f"warning: {name} is cut short or damaged")
        assert (entry["input"], entry["warnings"]) == (name, [warning.removeprefix("warning: ")])
        stem = read(f"separated/{Path(name).stem}/vocals.wav")
        assert 0.5 * len(mixture) < len(stem) < 0.8 * len(mixture)
        assert entry["stems"]["vocals"]["frames"] == len(stem)


def write_bad_checkpoint(path, kind):
    """A small checkpoint, damaged or other than it says, and the words of its refusal."""
    spec = small_spec()
    save_checkpoint(path, spec, small_variables(spec))
    data = path.read_bytes()
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "flipped":
        path.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    elif kind == "text":
        path.write_text("no weights")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "torch":
        torch.save({"weight": torch.ones(3)}, path)
    else:
        arrays = safetensors.numpy.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        described = {name: text for name, text in metadata.items()}
        for name, text in described.items():
            changed = text.replace('"unet"', '"u-net"') if kind == "family" else text
            changed = re.sub('"format_version":[12]', '"format_version":99', changed) if kind == "version" else changed
            changed = changed.replace('"filters":[2,3]', '"filters":[2,4]') if kind == "shapes" else changed
            changed = changed.replace('"n_sources"', '"n_source"') if kind == "key" else changed
            metadata[name] = changed
        assert metadata != described
        safetensors.numpy.save_file(arrays, path, metadata)


@pytest.mark.parametrize("command", ["separate", "info"])
@pytest.mark.parametrize(
    "kind", ["cut", "flipped", "text", "empty", "torch", "family", "version", "shapes", "key", "missing", "folder"]
)
def test_a_bad_checkpoint_is_one_sentence(jaxsep, place, command, kind):
    write_song("song.wav", 0.1)
    path = place / "model.safetensors"
    if kind == "folder":
        path = place / "model"
        path.mkdir()
    elif kind != "missing":
        write_bad_checkpoint(path, kind)
    before = files()
    arguments = ["song.wav", "-m", path] if command == "separate" else [path]
    result = jaxsep(command, *arguments)
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("jaxsep: ") and result.stderr.count("\n") == 1
    assert path.name in result.stderr
    assert files() == before


def test_unknown_names_are_met_with_the_nearest(jaxsep, place):
    write_song("song.wav", 0.1)
    write_bad_checkpoint(place / "model.safetensors", "key")
    for arguments, hint in (
        (["-m", "spleeter-2stem"], "Did you mean 'spleeter-2stems'"),
        (["-m", "model.safetensors"], "unknown key 'n_source'. Did you mean 'n_sources'"),
    ):
        result = jaxsep("separate", "song.wav", *arguments)
        assert result.exit_code in (1, 2)
        assert hint in result.stderr
