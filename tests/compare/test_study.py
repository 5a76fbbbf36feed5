"""A study from config to report: real runs of all three frameworks, killed and gone on with, and what it refuses."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from jaxsep.cli.main import app
from jaxsep.compare.study import RULES
from jaxsep.compare.study_config import StudyConfig, load_study
from jaxsep.compare.study_data import magnitude_maker, prepare_songs
from jaxsep.compare.study_report import REPORTS, summarize, to_markdown
from jaxsep.errors import ConfigError
from jaxsep.weights.rules import SPECS

SMOKE = Path(__file__).parents[2] / "configs" / "study_smoke.yaml"
# Less of it, which is mostly waiting for imports and compilers; no other code.
LESS = ["training.steps=6", "model.config.filters=[4, 8]", "training.batch_size=2", "seeds=1"]


def command(folder, *changes):
    return ["compare", "study", str(SMOKE), *LESS, *changes, "-o", str(folder)]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study that is killed while its second framework learns, and then goes on by the same command."""
    folder = tmp_path_factory.mktemp("study")
    main = "from jaxsep.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", main, *command(folder)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        while not (folder / "runs" / "jax-0.json").exists():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    kept = (folder / "runs" / "jax-0.json").stat()
    assert not (folder / "study.json").exists()
    done = CliRunner().invoke(app, command(folder))
    assert done.exit_code == 0, done.output
    assert (folder / "runs" / "jax-0.json").stat().st_mtime_ns == kept.st_mtime_ns
    return folder, done.output


def test_all_reports_tell_of_all_runs(study):
    folder, output = study
    summary = json.loads((folder / "study.json").read_text())
    assert [row["runs"] for row in summary["rows"]] == [1, 1, 1]
    assert summary["same_batches"] is True
    assert all(rule in (folder / "study.md").read_text() for rule in RULES)
    assert "| steps / s, without transforms |" in (folder / "study.md").read_text()
    # It says what the machine did, whatever that was, and judges by it.
    loads = [run["load_before"] for run in runs_of(folder)], [run["load_during"] for run in runs_of(folder)]
    assert summary["load_average"]["before"] == max(loads[0])
    assert summary["load_average"]["during"] == max(loads[1])
    assert ("busy machine: do not quote" in (folder / "study.md").read_text()) is bool(summary["load_average"]["busy"])
    assert "Load average" in (folder / "report.html").read_text()
    assert output.count("dB in one pair, which has no interval") == 2
    with (folder / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 2
    with (folder / "losses.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 6
    for name in ("losses.png", "differences.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 2 and page.count("<table") == 2
    assert sorted(path.name for path in folder.iterdir() if path.is_file() and path.name[0] != ".") == sorted(
        [*REPORTS, "config.json"]
    )
    for svg in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + svg[: svg.index("</svg>")] + "</svg>")


def test_frameworks_learn_the_same_from_the_same_weights(study):
    """Six steps of a smooth loss from equal weights; a wrong batch, optimizer or norm differs by far more."""
    folder, _ = study
    runs = runs_of(folder)
    assert {run["framework"] for run in runs} == {"jax", "torch", "tensorflow-function"}
    assert len({run["learned_from_sha256"] for run in runs}) == 1
    for run in runs:
        # float32 rounding, which every step of Adam may enlarge.
        np.testing.assert_allclose(run["losses"], runs[0]["losses"], rtol=1e-5, err_msg=run["framework"])
        # The trained weights were exported without loss: rounding through five layers.
        assert run["network_difference"] < 1e-5
        assert len(run["step_seconds"]) == 5 and run["peak_memory_bytes"] > 1e8


def test_a_second_study_in_the_folder_is_refused(study):
    folder, _ = study
    done = CliRunner().invoke(app, command(folder, "training.learning_rate=0.1"))
    assert done.exit_code == 2 and "holds a study with another 'training'" in done.stderr


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    done = CliRunner().invoke(app, command(tmp_path))
    assert done.exit_code == 2 and "holds 'report.html' and no study" in done.stderr
    assert (tmp_path / "report.html").read_text() == "mine"


def test_pairs_are_of_one_seed_and_runs_that_were_not_made_are_marked(study):
    """Made of the runs that are there: of further seeds, in which PyTorch is better by a known amount."""
    folder, _ = study
    better = (0.0, 0.03, -0.02)
    runs = [
        changed(run, seed, gain if run["framework"] == "torch" else 0.0)
        for seed, gain in enumerate(better)
        for run in runs_of(folder)
        if (run["framework"], seed) != ("tensorflow-function", 2)
    ]
    runs.append({"framework": "tensorflow-function", "seed": 2, "refused": "the package is not installed here"})
    config, known = load_study(SMOKE, (*LESS, "seeds=3")), json.loads((folder / "study.json").read_text())
    summary = summarize(config, runs, known)
    torch, tensorflow = summary["comparisons"]
    own = torch["differences"][0]
    # The medians of frames that are all better by as much.
    assert torch["differences"] == pytest.approx([own + gain for gain in better], abs=1e-9)
    assert (torch["pairs"], tensorflow["pairs"]) == (3, 2) and summary["unit"] == "seed"
    assert summary["rows"][2]["not_run"] == "1 of 3: the package is not installed here"
    text = to_markdown(summary)
    assert text.count("(two one-sided tests: p = ") == text.count("below 0.025)") == 2
    assert "over 3 pairs" in text and "the least it can give with so many pairs is 0.25" in text
    assert "| tensorflow-function 2." in text
    none = summarize(config, [run for run in runs if run["framework"] != "torch"], known)
    assert "torch against jax: not compared, there are no two runs of one seed" in to_markdown(none)


def test_scores_of_silence_are_null_in_json_and_a_dash_in_tables(study):
    folder, _ = study
    config, known = load_study(SMOKE, tuple(LESS)), json.loads((folder / "study.json").read_text())
    known["mixture"]["noise"] = dict.fromkeys(known["mixture"]["noise"], math.nan)
    silent = [changed(run, 0, math.nan) for run in runs_of(folder)]
    summary = summarize(config, [{**run, "losses": [math.nan] * 6} for run in silent], known)
    json.dumps(summary, allow_nan=False)
    assert all(row["last_loss"] is None and row["scores"]["melody"]["sdr"]["mean"] is None for row in summary["rows"])
    text = to_markdown(summary)
    assert "| mixture | noise |  | - | - | - | - |" in text and "a score is not finite" in text and "nan" not in text


def runs_of(folder):
    return [json.loads(path.read_text()) for path in sorted((folder / "runs").iterdir())]


def changed(run, seed, gain):
    scores = {
        song: {
            stem: {metric: [frame + gain for frame in frames] for metric, frames in metrics.items()}
            for stem, metrics in stems.items()
        }
        for song, stems in run["scores"].items()
    }
    return {**run, "seed": seed, "scores": scores, "learned_from_sha256": f"of seed {seed}"}


def test_examples_are_drawn_from_the_songs_that_are_learned_from(tmp_path):
    """Every source is a constant of its own, so that an example tells where it comes from."""
    for number, song in enumerate(("first", "second", "held-out")):
        (tmp_path / "songs" / song).mkdir(parents=True)
        for source, stem in enumerate(("melody", "noise")):
            audio = np.full(8000, 0.01 * (10 * source + number + 1), np.float32)
            soundfile.write(tmp_path / "songs" / song / f"{stem}.wav", audio, 8000, subtype="FLOAT")
    changes = ["data.synthetic=false", f"data.root={tmp_path / 'songs'}", "data.test=[held-out]", "data.remix=0.5"]
    config = load_study(SMOKE, (*changes, "training.batch_size=16"))
    songs = prepare_songs(config, tmp_path / "prepared")
    assert (songs.train, songs.test) == (("first", "second"), ("held-out",))
    batches = [songs.batch(config, 0, step) for step in range(8)]
    levels = np.concatenate([batch[:, :, 0, 0] for batch in batches])
    assert set(np.rint(1000 * levels[:, 0]).tolist()) == {10, 20}
    assert set(np.rint(1000 * levels[:, 1]).tolist()) == {110, 120}
    apart = np.mean(np.abs(levels[:, 1] - levels[:, 0] - 0.1) > 1e-6)
    # Half of them are remixed, and of those half happen on the same song: a quarter of 128, give or take four sigmas.
    assert 0.1 < apart < 0.41
    np.testing.assert_array_equal(batches[3], songs.batch(config, 0, 3))
    mixture, sources = magnitude_maker(config)(batches[0])
    frames = config.model.procedure.cutting.chunk_hop // 64
    assert mixture.shape == (16, frames, 64, 1) and sources.shape == (16, 2, frames, 64, 1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["data.synthetic=false"], "give 'root', the folder of the songs, or 'synthetic: true'"),
        (["frameworks=[jax]"], "'frameworks' are to be two or more, each once"),
        (["frameworks=[jax, torchh]"], "there is no framework 'torchh'. Did you mean 'torch'?"),
        (["stem=melodie"], "the model has no stem 'melodie'. Did you mean 'melody'?"),
        (["trainig.steps=3"], "unknown key 'trainig'. Did you mean 'training'?"),
        (["threads=4096"], "'threads' is 4096, and there are"),
        (["data.synthetic=false", "data.root=/nowhere", "data.test=[a]"], "The folder '/nowhere' cannot be read"),
        (["data.start_seconds=11.5"], "less than a second is left to score"),
    ],
)
def test_studies_that_cannot_be_made_are_refused_in_a_sentence(tmp_path, changes, sentence):
    done = CliRunner().invoke(app, command(tmp_path / "out", *changes))
    assert done.exit_code == 2 and sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(
    ("form", "frameworks", "sentence"),
    [
        ("jansson", ("jax", "torch", "tensorflow"), "The family 'jansson' has no twin in TensorFlow; those that have"),
        ("wave-unet-m4", ("jax", "torch"), "This model works on waveforms: it has no magnitudes or masks, which a st"),
    ],
)
def test_a_study_is_of_magnitudes_and_of_a_family_with_a_twin_in_each_framework(form, frameworks, sentence):
    study = {**dict(load_study(SMOKE)), "stem": None, "model": SPECS[form], "frameworks": frameworks}
    with pytest.raises(ConfigError, match=sentence):
        StudyConfig.parse(study, where="the test")
    if form == "jansson":
        assert StudyConfig.parse({**study, "frameworks": frameworks[:2]}, where="the test").model == SPECS[form]
