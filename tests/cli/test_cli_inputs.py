"""What a command line can be given: directories, lists, standard input; where their stems go; what is done again."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli.conftest import SCRIPT, files, read, write_song

STEMS = ("accompaniment.wav", "vocals.wav")


def stems_of(*tracks):
    return sorted(f"{track}/{stem}" for track in tracks for stem in STEMS)


@pytest.fixture
def jaxsep(quick_jaxsep):
    return quick_jaxsep


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("jaxsep: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


def test_a_directory_is_mirrored_and_the_output_directory_in_it_left_out(jaxsep):
    for path in ("a.wav", "sub/b c .wav", "sub/deep/ünï.flac", "separated/old/vocals.wav", ".hidden/c.wav"):
        write_song(Path("music") / path, 0.1)
    for path in ("cover.jpg", "notes.txt", "sub/.d.wav"):
        (Path("music") / path).write_bytes(b"no audio")
    os.symlink(".", "music/loop")
    os.chdir("music")
    assert jaxsep("separate", ".", "--quiet").exit_code == 0
    found = [path for path in files("separated") if path != "old/vocals.wav"]
    assert found == stems_of("a", "sub/b c ", "sub/deep/ünï")
    # A second run finds the same inputs, and nothing of what the first one wrote.
    result = jaxsep("separate", ".", "--skip-existing")
    assert result.stderr.count("skipped") == 3, result.stderr


def test_lists_name_files_and_directories_one_on_each_line(jaxsep):
    write_song("#1.wav", 0.1)
    write_song("music/a.wav", 0.1)
    write_song("@b .wav", 0.1)
    Path("list.txt").write_text("# songs\r\n./#1.wav\n\nmusic\n./@b .wav\nmusic/a.wav\n", encoding="utf-8")
    result = jaxsep("separate", "@list.txt", "--quiet")
    assert result.exit_code == 0
    assert files("separated") == stems_of("#1", "@b ", "a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["@nothing.txt"], ["list 'nothing.txt' cannot be read", "No such file"]),
        (["@empty.txt"], ["list 'empty.txt' names no files"]),
        (["@."], ["list '.' cannot be read"]),
        (["folder"], ["no audio in the directory 'folder'"]),
        (["folder", "-o", "folder"], ["'folder' is the output directory"]),
        ([""], ["empty name"]),
        (["song.wav", "--two-stems", "drums"], ["no stem 'drums'", "vocals"]),
        (["song.wav", "--two-stems", "vocals", "--stems", "vocals"], ["--two-stems", "neither with --stems"]),
        (["song.wav", "--other-method", "add"], ["--other-method", "--two-stems"]),
        (["song.wav", "--two-stems", "vocals", "--residual"], ["--two-stems", "nor --residual"]),
        (["song.wav", "-o", "song.wav/below"], ["'song.wav' is not a directory"]),
        (["song.wav", "-o", "out"], ["leads out of the output directory by a link"]),
        (["song.wav", "--filename", "{parent}/../../{stem}"], ["not below the output directory"]),
        (["song.wav", "other/song.wav"], ["would both be written"]),
    ],
)  # fmt: skip
def test_inputs_that_cannot_work_are_refused_before_work(jaxsep, monkeypatch, arguments, words):
    write_song("song.wav", 0.1)
    write_song("other/song.wav", 0.1)
    Path("empty.txt").write_text("\n# nothing\n")
    Path("folder").mkdir()
    Path("folder/readme.txt").write_text("no audio")
    Path("out").mkdir()
    os.symlink("/tmp", "out/song")
    before = files()

    def fail(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("jaxsep.separation.models.load_pretrained", fail)
    refused(jaxsep("separate", *arguments), *words)
    assert files() == before


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{parent}-{track}-{stem}.{ext}", ["sub-a-accompaniment.wav", "sub-a-vocals.wav"]),
        ("{model}/{track}.{stem}.{ext}", [f"sub/spleeter-2stems/a.{stem}" for stem in STEMS]),
    ],
)
def test_templates_know_the_parent_and_the_model(jaxsep, template, expected):
    write_song("music/sub/a.wav", 0.1)
    assert jaxsep("separate", "music", "--filename", template, "--quiet").exit_code == 0
    assert files("separated") == expected


def test_two_stems_are_the_stem_and_the_mixture_minus_it(jaxsep):
    mixture = write_song("song.wav", 0.5, subtype="FLOAT")
    assert jaxsep("separate", "song.wav", "--two-stems", "accompaniment", "--quiet").exit_code == 0
    assert files("separated") == ["song/accompaniment.wav", "song/no_accompaniment.wav"]
    stem, rest = (read(f"separated/song/{name}.wav") for name in ("accompaniment", "no_accompaniment"))
    np.testing.assert_allclose(stem + rest, mixture, atol=1e-6)  # float32 files
    assert np.abs(stem).max() > 0.01


def test_what_is_beside_a_stem_may_be_the_sum_of_the_others(jaxsep, small_model):
    write_song("song.wav", 0.5, subtype="FLOAT")
    two = ["--two-stems", "vocals", "--other-method", "add"]
    assert jaxsep("separate", "song.wav", "-m", small_model, *two, "--quiet", "-o", "two").exit_code == 0
    assert jaxsep("separate", "song.wav", "-m", small_model, "--quiet", "-o", "all").exit_code == 0
    assert files("two") == ["song/no_vocals.wav", "song/vocals.wav"]
    for found, expected in (("vocals", "vocals"), ("no_vocals", "accompaniment")):
        # A sum of two minus one of them, in float32.
        np.testing.assert_allclose(read(f"two/song/{found}.wav"), read(f"all/song/{expected}.wav"), atol=1e-6)


@pytest.fixture
def piped(small_model):
    def run(data, *arguments):
        command = [SCRIPT, "separate", "-m", small_model, *arguments]
        return subprocess.run(command, input=data, capture_output=True, timeout=120)

    return run


def test_standard_input_is_separated_as_stdin(piped, place, monkeypatch):
    write_song("song.flac", 0.5)
    scratch = place / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    data = Path("song.flac").read_bytes()
    done = piped(data, "-", "song.flac", "--report", "report.json")
    assert done.returncode == 0, done.stderr
    assert files("separated") == stems_of("song", "stdin")
    for stem in STEMS:
        assert Path("separated/stdin", stem).read_bytes() == Path("separated/song", stem).read_bytes()
    assert '"input": "stdin"' in Path("report.json").read_text()
    assert files(scratch) == []


@pytest.mark.parametrize(
    ("data", "arguments", "words"),
    [
        (b"", ["-"], b"Standard input ('-') is empty"),
        (b"RIFF", ["-", "-"], b"can be read once only"),
        (b"no audio at all", ["-"], b"jaxsep: stdin is not "),
    ],
)
def test_standard_input_that_cannot_work_is_one_sentence(piped, place, data, arguments, words):
    done = piped(data, *arguments)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert done.stderr.startswith(b"jaxsep: ") and done.stderr.count(b"\n") == 1
    assert files() == []


def test_an_interrupted_run_is_resumed(jaxsep):
    """Of five inputs: one complete, one with a stem missing, one with a stem cut short, one too short, one unknown."""
    for name in "abcde":
        write_song(f"music/{name}.wav", 0.2 + 0.1 * (name == "d"))
    assert jaxsep("separate", "music/a.wav", "music/b.wav", "music/c.wav", "--quiet").exit_code == 0
    write_song("separated/d/vocals.wav", 0.2)
    write_song("separated/d/accompaniment.wav", 0.3)
    expected = {path: Path("separated", path).read_bytes() for path in stems_of("a", "b", "c")}
    Path("separated/b/vocals.wav").unlink()
    cut = Path("separated/c/vocals.wav")
    cut.write_bytes(cut.read_bytes()[:-1000])
    untouched = Path("separated/a/vocals.wav").stat().st_mtime_ns
    result = jaxsep("separate", "music", "--skip-existing")
    assert result.exit_code == 0, result.output
    assert [line for line in result.stderr.splitlines() if "skipped" in line] == [
        "music/a.wav: skipped, all its stems are there"
    ]
    assert Path("separated/a/vocals.wav").stat().st_mtime_ns == untouched
    assert {path: Path("separated", path).read_bytes() for path in expected} == expected
    assert len(read("separated/d/vocals.wav")) == len(read("music/d.wav"))
    assert files("separated") == stems_of(*"abcde")


@pytest.mark.parametrize(
    "options",
    [[], ["--format", "flac"], ["--format", "ogg"], ["--format", "mp3"], ["--sample-rate", "22050", "--offset", "0.1"]],
    ids=" ".join,
)
@pytest.mark.parametrize("keep", [1.0, 0.9, 0.5])
def test_stems_that_were_cut_on_disk_are_made_again(jaxsep, options, keep):
    write_song("song.wav", 1.0)
    assert jaxsep("separate", "song.wav", "--stems", "vocals", *options, "--quiet").exit_code == 0
    (path,) = Path("separated/song").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: round(len(whole) * keep)])
    result = jaxsep("separate", "song.wav", "--stems", "vocals", *options, "--skip-existing")
    assert result.exit_code == 0
    assert ("skipped" in result.stderr) == (keep == 1.0), result.stderr
    assert soundfile.info(path).frames == soundfile.info(path).frames
    assert len(path.read_bytes()) == len(whole)


@pytest.mark.parametrize(
    "changed", [["--subtype", "PCM_24"], ["--sample-rate", "48000"], ["--duration", "0.1"]], ids=" ".join
)
def test_stems_of_another_kind_are_made_again(jaxsep, changed):
    write_song("song.wav", 0.3)
    assert jaxsep("separate", "song.wav", "--quiet").exit_code == 0
    result = jaxsep("separate", "song.wav", "--skip-existing", *changed)
    assert result.exit_code == 0
    assert "skipped" not in result.stderr


def test_thousands_of_files_are_planned_in_seconds(place):
    """Five thousand files in fifty folders, of which none is read: planning is not to grow with their square."""
    for folder in range(50):
        Path(f"music/{folder}").mkdir(parents=True)
        for number in range(100):
            Path(f"music/{folder}/{number}.wav").touch()
    code = (
        "import time; from pathlib import Path\n"
        "from jaxsep.separation.inputs import find_inputs\n"
        "from jaxsep.separation.outputs import OutputConfig, plan\n"
        "from jaxsep.weights.checkpoint import read_spec\n"
        "from jaxsep.weights.pretrained import resolve\n"
        "spec = read_spec(resolve('spleeter-2stems'))\n"
        "started = time.process_time()\n"
        "found = find_inputs(['music'], output=Path('out'))\n"
        "jobs = plan(found, Path('out'), spec, OutputConfig())\n"
        "print(len(jobs), time.process_time() - started)\n"
    )
    done = subprocess.run(
        [SCRIPT.with_name("python"), "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    count, seconds = done.stdout.split()
    assert int(count) == 5000
    assert float(seconds) < 10  # 1.5 s of processor time on a quiet machine; in the square of 5,000 it takes minutes


def test_a_bad_file_in_a_directory_does_not_stop_the_others(jaxsep):
    write_song("music/a.wav", 0.1)
    write_song("music/c.wav", 0.1)
    Path("music/b.mp3").write_text("this is text")
    result = jaxsep("separate", "music")
    assert result.exit_code == 1
    assert files("separated") == stems_of("a", "c")
    assert [line for line in result.stderr.splitlines() if line.startswith("jaxsep: ")] == [
        line for line in result.stderr.splitlines() if "b.mp3" in line
    ]
