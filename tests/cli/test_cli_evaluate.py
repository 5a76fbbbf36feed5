"""`jaxsep evaluate`: what it writes and prints, that a model scores what its stems score, refusals, interruptions."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import soundfile
from cli.conftest import SCRIPT, files, write_song
from evaluation.scored_tracks import two_tracks

from jaxsep.evaluation.report import REPORTS


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
    summary = json.loads(Path("out/scores.json").read_text())["summary"]
    assert len(summary) == 2 * 6 * 3
    # A table for each metric, and in it a row for each system and a column for each stem.
    tables = [part.splitlines() for part in result.stdout.split("\n\n")]
    captions = [lines[0] for lines in tables[:-1:2]]
    assert captions[0] == "SDR in dB, median of medians over 2 tracks"
    assert captions[4] == "global SDR in dB, mean over 2 tracks"
    for metric, lines in zip(("SDR", "ISR", "SIR", "SAR", "global SDR", "SI-SDR"), tables[1::2], strict=False):
        assert lines[0].split()[:3] == ["system", "drums", "vocals"]
        average = "mean_of_means" if metric in ("global SDR", "SI-SDR") else "median_of_medians"
        own = [row for row in summary if (row["system"], row["metric"]) == ("mixture", metric)]
        shown = ["> 150" if row[average] == 150.0 else f"{row[average]:.2f}" for row in own]
        assert lines[2].split() == ["mixture", *" ".join(shown).split()]
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
        (["--tracks", "true", "--estimates", "est", "-m", "x"], ["no model or file called 'x'"]),
        (["--tracks", "true", "--estimates", "est", "--shifts", "2"], ["go with --model, which is not given"]),
        (["--tracks", "true", "--estimates", "a/b=est"], ["'a/b=est'; give NAME="]),
        (["--tracks", "true", "--estimates", "est", "--estimates", "est"], ["Two systems are called 'est'"]),
        (["--tracks", "true", "--estimates", "est", "--join", "x.csv"], ["'x.csv' cannot be read"]),
        (["--tracks", "true", "--estimates", "est", "--groups", "x.csv"], ["'x.csv' cannot be read"]),
        (["--tracks", "true", "--estimates", "est", "--lower-is-better", "x"], ["--join, which is not given"]),
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


def test_systems_are_compared_in_their_order_with_joined_scores_and_groups(jaxsep, tracks):
    for name, gain in (("zebra", 0.9), ("ape", 0.5)):
        for track in ("one", "two"):
            for stem in ("drums", "vocals"):
                waveform, rate = soundfile.read(f"est/{track}/{stem}.wav")
                Path(f"{name}/{track}").mkdir(parents=True, exist_ok=True)
                soundfile.write(f"{name}/{track}/{stem}.wav", gain * waveform, rate, subtype="DOUBLE")
    Path("heard.csv").write_text(
        "system,track,stem,MOS,noise\n"
        + "".join(
            f"{system},{track},{stem},{mos},{10 - mos}\n"
            for system, mos in (("z", 4), ("ape", 3), ("mixture", 1))
            for track in ("one", "two")
            for stem in ("drums", "vocals")
        )
    )
    Path("genres.csv").write_text("Track Name,Genre,Source\none,Rock,x\ntwo,Jazz,x\nelsewhere,Rock,x\n")
    arguments = [
        "--estimates",
        "z=zebra",
        "--estimates",
        "ape",
        "--baselines",
        "mixture",
        "--tracks",
        "true",
        "-o",
        "out",
    ]
    arguments += ["--metrics", "sdr,si-sir,log-wmse,spectral-distance,bleedless,fullness"]
    arguments += ["--join", "heard.csv", "--lower-is-better", "noise", "--groups", "genres.csv"]
    result = jaxsep("evaluate", *arguments)
    assert result.exit_code == 0, result.output
    data = json.loads(Path("out/scores.json").read_text())
    assert list(data["systems"]) == ["z", "ape", "mixture"]
    comparison = {(row["metric"], row["stem"], row["system"]): row for row in data["comparison"]}
    best = [key for key, row in comparison.items() if key[:2] == ("global SDR", "drums") and row["is_best"]]
    assert best == [("global SDR", "drums", "z")]
    assert comparison["noise", "drums", "z"]["is_best"] and not comparison["noise", "drums", "ape"]["is_best"]
    assert not comparison["noise", "drums", "mixture"]["is_best"]
    drums = {
        (row["system"], row["track"]): row["frames_median"]
        for row in data["tracks"]
        if (row["stem"], row["metric"]) == ("drums", "global SDR")
    }
    gained = [drums["z", track] - drums["mixture", track] for track in ("one", "two")]
    assert comparison["global SDR", "drums", "z"]["improvement"] == pytest.approx(sum(gained) / 2)
    assert comparison["MOS", "vocals", "ape"]["value"] == 3.0
    mos = [row for row in data["differences"] if (row["metric"], row["stem"]) == ("MOS", "drums")]
    assert [(row["first"], row["second"]) for row in mos] == [("z", "ape"), ("z", "mixture"), ("ape", "mixture")]
    assert [row["mean"] for row in mos] == [-1.0, -3.0, -2.0]
    groups = {(row["grouped_by"], row["group"]) for row in data["groups"]}
    assert groups == {("Genre", "Rock"), ("Genre", "Jazz"), ("Source", "x")}
    (rock,) = [
        row
        for row in data["groups"]
        if (row["group"], row["system"], row["stem"], row["metric"]) == ("Rock", "z", "drums", "global SDR")
    ]
    assert rock["value"] == drums["z", "one"] and rock["tracks"] == 1
    assert "\\textbf{" in Path("out/systems.tex").read_text()


def test_several_models_are_compared_in_their_order_beside_stems_on_disk(jaxsep, place, small_model):
    write_song("songs/a/vocals.wav", 0.3)
    write_song("songs/a/accompaniment.wav", 0.3, level=0.05)
    arguments = ["-m", f"second={small_model}", "-m", small_model, "--estimates", "truth=songs", "--metrics", "sdr"]
    result = jaxsep("evaluate", "--tracks", "songs", "--device", "cpu", "-o", "out", *arguments)
    assert result.exit_code == 0, result.output
    data = json.loads(Path("out/scores.json").read_text())
    assert list(data["systems"]) == ["second", "spleeter-2stems", "truth"]
    scores = {(row["system"], row["stem"]): row for row in data["comparison"]}
    for stem in ("vocals", "accompaniment"):
        # The same weights by two names, one after another on the device.
        assert scores["second", stem]["value"] == scores["spleeter-2stems", stem]["value"] < 60
        assert scores["truth", stem]["is_exact"] and scores["truth", stem]["is_best"]
    again = jaxsep("evaluate", "--tracks", "songs", "--device", "cpu", "-o", "no", "-m", small_model, "-m", small_model)
    assert again.exit_code == 2
    assert "Two systems are called 'spleeter-2stems'; give one another name, by --model NAME=MODEL" in again.stderr


def test_systems_with_other_stems_are_not_compared_before_the_source_set_is_named(jaxsep, tracks):
    for track in ("one", "two"):
        Path(f"few/{track}").mkdir(parents=True)
        shutil.copy(f"est/{track}/drums.wav", f"few/{track}/drums.wav")
    arguments = ["evaluate", "--tracks", "true", "--estimates", "est", "--estimates", "few", "--metrics", "sdr"]
    result = jaxsep(*arguments)
    assert result.exit_code == 2
    assert "'est' has the stems drums, vocals and 'few' drums; name those to compare with --stems." in result.stderr
    assert jaxsep(*arguments, "--stems", "drums").exit_code == 0
    data = json.loads(Path("evaluation/scores.json").read_text())
    assert {row["value"] for row in data["comparison"]} == {data["comparison"][0]["value"]}


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
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + 60
    while not list(Path("out").rglob("*.json")) and time.monotonic() < give_up:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    # Until all processes that hold the pipe are gone, of which the last one says what was leaked.
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "leaked" not in said and "Traceback" not in said
    # The processes that score end with the one that started them.
    time.sleep(1.0)
    there = files("out")
    assert 1 <= len(there)
    assert all(name.startswith("est/test/") and name.endswith(".json") and "/." not in name for name in there)
    assert all(record(Path("out") / name)["jaxsep"]["track"] for name in there)
    result = jaxsep("evaluate", "--estimates", "est", "--tracks", "true", "-o", "out")
    assert result.exit_code == 0
    assert len([name for name in files("out") if name.startswith("est/")]) == 8
