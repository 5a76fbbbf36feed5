"""`jaxsep evaluate`: what it writes and prints, that a model scores what its stems score, refusals, interruptions."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli.conftest import SCRIPT, files, write_song
from evaluation.scored_tracks import two_tracks

REPORTS = ["report.html", "scores.json", "summary.csv", "summary.md", "tracks.csv"]


@pytest.fixture
def tracks(place):
    two_tracks(place)


def record(path):
    return json.loads(Path(path).read_text())


def test_stems_on_disk_are_scored_and_reported(jaxsep, tracks):
    result = jaxsep("evaluate", "--estimates", "est", "--tracks", "true", "-o", "out", "--baselines", "mixture")
    assert result.exit_code == 0, result.output
    records = [f"{system}/test/{track}.json" for system in ("est", "mixture") for track in ("one", "two")]
    assert files("out") == sorted([*REPORTS, *records])
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][:3] == ["system", "metric", "stem"]
    summary = json.loads(Path("out/scores.json").read_text())["summary"]
    assert len(summary) == 2 * 6 * 3
    for row in summary:
        assert any(
            line[0] == row["system"] and line[-4:-3] == [f"{row['median_of_medians']:.2f}"] for line in lines if line
        )
    again = jaxsep("evaluate", "--estimates", "est", "--tracks", "true", "-o", "out", "--quiet")
    assert (again.exit_code, again.stdout) == (0, "")
    # The mixture's records are still there, of the same settings, and in the report.
    assert json.loads(Path("out/scores.json").read_text())["summary"] == summary


def test_a_model_scores_what_its_stems_on_disk_score(jaxsep, place):
    """Once by --model, and once by `jaxsep separate` and --estimates."""
    vocals = write_song("songs/a/vocals.wav", 1.2)
    write_song("songs/a/accompaniment.wav", 1.2, level=0.05)
    assert len(vocals) == 52_920
    result = jaxsep("evaluate", "--tracks", "songs", "--metrics", "sdr,bss-eval", "--device", "cpu")
    assert result.exit_code == 0, result.output
    by_model = record("evaluation/spleeter-2stems/test/a.json")
    assert by_model["jaxsep"]["provenance"]["model"] == "spleeter-2stems"
    assert len(by_model["jaxsep"]["provenance"]["sha256"]) == 64
    # The mixture is the sum of both, in float.
    import soundfile

    from jaxsep.evaluation.tracks import AudioStream, summed

    both = [AudioStream(Path("songs/a") / f"{stem}.wav") for stem in ("vocals", "accompaniment")]
    (mixture,) = summed(both)
    soundfile.write("a.wav", mixture, 44100, subtype="FLOAT")
    assert jaxsep("separate", "a.wav", "-o", "stems", "--subtype", "FLOAT", "--quiet").exit_code == 0
    arguments = ["--estimates", "stems", "--tracks", "songs", "--metrics", "sdr,bss-eval", "-o", "two"]
    assert jaxsep("evaluate", *arguments, "--stems", "vocals,accompaniment").exit_code == 0
    by_files = record("two/stems/test/a.json")
    assert by_files["targets"] == by_model["targets"]
    assert by_files["jaxsep"]["whole_track"] == by_model["jaxsep"]["whole_track"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["one of --musdb ROOT and --tracks DIR"]),
        (["--tracks", "true", "--musdb", "true"], ["one of --musdb ROOT and --tracks DIR"]),
        (["--tracks", "true", "--estimates", "est", "-m", "x"], ["neither with --model nor with options"]),
        (["--tracks", "true", "--hq"], ["go with --musdb"]),
        (["--musdb", "true", "--subset", "valid"], ["--subset is 'valid'"]),
        (["--musdb", "nowhere"], ["'nowhere/test' cannot be read"]),
        (["--tracks", "true", "--estimates", "nowhere"], ["no folder 'nowhere'"]),
        (["--tracks", "true", "--estimates", "est", "--metrics", "sdr,sisdr"], ["no metric 'sisdr'", "'si-sdr'"]),
        (["--tracks", "true", "--estimates", "est", "--metrics", ""], ["--metrics is ''"]),
        (["--tracks", "true", "--estimates", "est", "--stems", "vocals,piano"], ["no stem 'piano'", "drums, vocals"]),
        (["--tracks", "true", "--estimates", "est", "--window", "0"], ["window_seconds"]),
        (["--tracks", "true", "--baselines", "mixture,irm"], ["no baseline 'irm'", "irm1"]),
        (["--tracks", "true", "--baselines", "mixture", "--stems", "piano"], ["no true source", "'piano'"]),
        (["--tracks", "est/one"], ["no folders with audio files"]),
        (["--tracks", "true", "--estimates", "est", "-o", "true/one/vocals.wav"], ["is not a directory"]),
        (["--tracks", "true", "-m", "nothing.safetensors"], ["no checkpoint at nothing.safetensors"]),
        (["--tracks", "true", "--stems", "drums"], ["'spleeter-2stems' has no stem 'drums'"]),
    ],
    ids=lambda value: " ".join(value)[:50] if value and value[0].startswith("--") else "",
)
def test_what_cannot_work_is_one_sentence_before_any_work(jaxsep, tracks, options, words):
    before = files()
    result = jaxsep("evaluate", *options)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("jaxsep: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr
    assert files() == before


def test_a_file_that_a_report_would_replace_is_kept(jaxsep, tracks):
    Path("out").mkdir()
    Path("out/summary.md").write_text("mine")
    result = jaxsep("evaluate", "--estimates", "est", "--tracks", "true", "-o", "out")
    assert result.exit_code == 2
    assert "'out/summary.md' exists and is no report of jaxsep's" in result.stderr
    assert files("out") == ["summary.md"]
    assert Path("out/summary.md").read_text() == "mine"


def test_a_track_that_fails_does_not_stop_the_rest_and_gives_status_1(jaxsep, tracks):
    path = Path("est/one/drums.wav")
    path.write_bytes(path.read_bytes()[:-30_000])
    result = jaxsep("evaluate", "--estimates", "est", "--tracks", "true", "-o", "out")
    assert result.exit_code == 1
    assert "jaxsep: The track 'one' (est) cannot be scored" in result.stderr
    assert files("out") == sorted([*REPORTS, "est/test/two.json"])


def test_an_interrupted_run_leaves_nothing_half_written_and_goes_on(jaxsep, place):
    two_tracks(place)
    for number in range(6):
        shutil.copytree("true/one", f"true/more{number}")
        shutil.copytree("est/one", f"est/more{number}")
    command = [SCRIPT, "evaluate", "--estimates", "est", "--tracks", "true", "-o", "out", "--jobs", "2"]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 60
    while not list(Path("out").rglob("*.json")) and time.monotonic() < give_up:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=30) == 130
    # The processes that score end with the one that started them.
    time.sleep(1.0)
    there = files("out")
    assert 1 <= len(there)
    assert all(name.startswith("est/test/") and name.endswith(".json") and "/." not in name for name in there)
    assert all(record(Path("out") / name)["jaxsep"]["track"] for name in there)
    result = jaxsep("evaluate", "--estimates", "est", "--tracks", "true", "-o", "out")
    assert result.exit_code == 0
    assert len([name for name in files("out") if name.startswith("est/")]) == 8
