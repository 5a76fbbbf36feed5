"""What the command line refuses before any work, and with which exit status and words."""

import os
from pathlib import Path

import jax
import pytest
from cli.conftest import files, write_song


@pytest.fixture
def song(place):
    write_song("song.wav", 0.1)
    return "song.wav"


@pytest.fixture
def no_model(monkeypatch):
    """The weights are not to be read in these tests."""

    def fail(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("jaxsep.separation.models.load_pretrained", fail)


def refused(result, *words):
    """Asserts a usage error: status 2, one sentence on stderr, nothing on stdout."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    message = result.stderr
    assert message.startswith("jaxsep: ") and message.count("\n") == 1 and message.endswith(("\n", ".\n", "?\n")), (
        message
    )
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--overwrite", "--skip-existing"], ["--overwrite", "--skip-existing", "contradict"]),
        (["--format", "mp3", "--subtype", "PCM_16"], ["'mp3' cannot hold subtype 'PCM_16'"]),
        (["--format", "flac", "--subtype", "FLOAT"], ["holds PCM_16 or PCM_24"]),
        (["--bitrate", "192"], ["192 kbit/s", "for mp3 and ogg"]),
        (["--format", "flac", "--bitrate", "192"], ["for mp3 and ogg"]),
        (["--format", "mp3", "--bitrate", "123"], ["123 kbit/s", "112, 128"]),
        (["--format", "ogg", "--bitrate", "9"], ["64 to 500 kbit/s"]),
        (["--format", "mp3", "--sample-rate", "12345"], ["no sample rate of 12345 Hz", "44.1"]),
        (["--sample-rate", "44.1k"], ["--sample-rate is '44.1k'", "'input', 'model', or a rate in Hz"]),
        (["--sample-rate", "0"], ["--sample-rate is '0'"]),
        (["--offset", "-1"], ["--offset is '-1.0'", "greater than or equal to 0"]),
        (["--offset", "inf"], ["--offset is 'inf'", "finite"]),
        (["--duration", "0"], ["--duration is '0.0'", "greater than 0"]),
        (["--duration", "nan"], ["--duration is 'nan'"]),
        (["--filename", "{track}.{ext}"], ["--filename is '{track}.{ext}'", "needs {stem}"]),
        (["--filename", "{stem"], ["--filename is '{stem'", "cannot be read"]),
        (["--filename", "{title}/{stem}"], ["no field '{title}'", "Known: ext, model, parent, stem, suffix, track"]),
        (["--filename", "{stem:>999999999}"], ["written '{stem}'"]),
        (["--filename", "{stem!r}"], ["written '{stem}'"]),
        (["--filename", "{stem.__class__}"], ["no field '{stem.__class__}'"]),
        (["--filename", "../{stem}.{ext}"], ["'../vocals.wav'", "not below the output directory"]),
        (["--filename", "/tmp/{stem}.{ext}"], ["'/tmp/vocals.wav'", "not below the output directory"]),
        (["--filename", "x" * 300 + "{stem}"], ["longer than 255 bytes"]),
        (["--stems", "vocals,drums"], ["no stem 'drums'", "Known: accompaniment, vocals"]),
        (["--stems", "vocal"], ["Did you mean 'vocals'?"]),
        (["--stems", "vocals,vocals"], ["--stems is 'vocals,vocals'", "different names"]),
        (["--stems", ""], ["--stems is ''"]),
        (["--model", "spleter-2stems"], ["'spleter-2stems'", "Did you mean 'spleeter-2stems'"]),
        (["--model", "./nothing.safetensors"], ["no checkpoint at nothing.safetensors"]),
        (["--output", "song.wav"], ["'song.wav' is not a directory"]),
        (["--report", "."], ["'.' is not a regular file"]),
        (["--report", "/dev/null"], ["'/dev/null' is not a regular file"]),
        (["--report", "song.wav/report.json"], ["'song.wav/report.json' cannot be written: "]),
        (["--report", "./song.wav"], ["would replace 'song.wav'"]),
        (["--report", "separated/song/vocals.wav"], ["would replace 'separated/song/vocals.wav'"]),
    ],
    ids=lambda value: "".join(value)[:40] if value[0].startswith("--") else "",
)
def test_what_cannot_work_is_refused_before_the_model_is_loaded(jaxsep, song, no_model, options, words):
    before = Path("song.wav").read_bytes()
    refused(jaxsep("separate", song, *options), *words)
    assert files() == ["song.wav"]
    assert Path("song.wav").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["separate"], "INPUT"),
        (["separate", "song.wav", "--formt", "wav"], "--formt"),
        (["separate", "song.wav", "--format", "aac"], "'flac'"),
        (["separate", "song.wav", "--subtype", "PCM_32"], "'PCM_24'"),
        (["separate", "song.wav", "--clip", "loudly"], "'rescale'"),
        (["separate", "song.wav", "--consistency", "some"], "'project'"),
        (["separate", "song.wav", "--device", "abacus"], "'auto'"),
        (["separate", "song.wav", "--batch-size", "0"], "--batch-size"),
        (["separate", "song.wav", "--duration", "long"], "--duration"),
        (["seperate", "song.wav"], "separate"),
        (["convert", "song.wav"], "--output"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_unknown_options_and_values_are_usage_errors_that_name_them(jaxsep, song, no_model, arguments, word):
    result = jaxsep(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert word in result.stderr
    assert files() == ["song.wav"]


def test_no_arguments_at_all_show_the_help(jaxsep):
    result = jaxsep()
    for command in ("separate", "models", "info", "convert", "env"):
        assert command in result.output


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_a_device_that_is_not_there_is_refused(jaxsep, song, no_model, kind):
    if kind in {"gpu" if device.platform in ("cuda", "rocm") else device.platform for device in jax.devices()}:
        pytest.skip(f"there is a {kind} here")
    refused(jaxsep("separate", song, "--device", kind), f"no {kind}", "--device auto")
    assert files() == ["song.wav"]


def test_two_inputs_that_would_write_one_path_are_refused(jaxsep, song, no_model):
    write_song("other/song.flac", 0.1)
    before = files()
    refused(jaxsep("separate", song, "other/song.flac"), "'song.wav'", "'other/song.flac'", "separated/song/vocals.wav")
    # On file systems that do not tell upper from lower case these are one path; there or not, it is refused.
    refused(jaxsep("separate", song, "SONG.wav"), "'song.wav' and 'SONG.wav'")
    assert files() == before


def test_existing_stems_are_refused_and_kept(jaxsep, song, no_model):
    stem = Path("separated/song/accompaniment.wav")
    stem.parent.mkdir(parents=True)
    stem.write_bytes(b"precious")
    refused(jaxsep("separate", song), f"'{stem}' exists", "--overwrite", "--skip-existing")
    assert stem.read_bytes() == b"precious"
    assert files("separated") == ["song/accompaniment.wav"]


def test_an_input_is_never_overwritten_even_when_told_to_overwrite(jaxsep, no_model):
    audio = write_song("separated/vocals.wav", 0.1)
    before = Path("separated/vocals.wav").read_bytes()
    message = refused(
        jaxsep("separate", "separated/vocals.wav", "--filename", "{stem}.{ext}", "--overwrite"),
        "is an input of this run",
    )
    assert "'separated/vocals.wav'" in message and len(audio)
    assert Path("separated/vocals.wav").read_bytes() == before


def test_a_folder_in_the_place_of_a_stem_is_not_replaced(jaxsep, song, no_model):
    Path("separated/song/vocals.wav").mkdir(parents=True)
    refused(jaxsep("separate", song, "--overwrite"), "not a regular file")
    assert Path("separated/song/vocals.wav").is_dir()


def test_a_platform_that_jax_does_not_know_is_one_sentence(process, song):
    result = process("separate", song, JAX_PLATFORMS="abacus")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("jaxsep: JAX does not start (") and result.stderr.count("\n") == 1


def test_convert_and_info_refuse_as_separate_does(jaxsep, song):
    refused(jaxsep("info", "spleter-2stems"), "Did you mean 'spleeter-2stems'")
    refused(jaxsep("convert", song, "-o", "song.wav"), "'song.wav' exists", "--overwrite")
    refused(jaxsep("convert", song, "-o", "out", "--family", "spleter"), "'spleter'", "Did you mean 'spleeter'")
    result = jaxsep("convert", song, "-o", "out", "--dtype", "int8")
    assert result.exit_code == 2 and "'float16'" in result.stderr
    assert files() == ["song.wav"]


def test_the_command_line_preallocates_nothing(jaxsep, song, no_model, monkeypatch):
    """Beside other programs on one card; what the user has set stays."""
    for before, after in ((None, "false"), ("true", "true")):
        monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
        if before is not None:
            monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", before)
        jaxsep("separate", song, "--stems", "drums")
        assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == after
