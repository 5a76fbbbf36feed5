"""Outputs whose names came to exist during a run: somebody's file stays, and ours has another name, which is told."""

from pathlib import Path

import pytest
from cli.conftest import files, write_song
from evaluation.scored_tracks import two_tracks

MINE = "somebody's"


def meanwhile(monkeypatch, function, path):
    """Has somebody make a file when a function is called, which is late in the run."""
    module, name = function.rsplit(".", 1)
    before = getattr(__import__(module, fromlist=[name]), name)

    def call(*arguments, **keywords):
        Path(path).write_text(MINE)
        return before(*arguments, **keywords)

    monkeypatch.setattr(function, call)


def check(result, path, kept, folder):
    assert result.exit_code == 1, result.output
    assert f"'{path}' came to exist while it was being written, and was not replaced" in result.stderr
    assert f"'{kept}'" in result.stderr and result.stderr.count("\n") == 1
    assert Path(path).read_text() == MINE and Path(kept).stat().st_size > 20
    assert not [name for name in files(folder) if name.endswith(".part")]


def test_a_report_of_a_separation_does_not_replace_what_came_to_exist(quick_jaxsep, monkeypatch):
    write_song("a.wav", 0.1)
    meanwhile(monkeypatch, "jaxsep.cli.separate.make_report", "report.json")
    options = ("separate", "a.wav", "--report", "report.json")
    check(quick_jaxsep(*options), "report.json", "report.2.json", ".")
    assert len(files("separated")) == 2
    assert quick_jaxsep(*options, "--overwrite").exit_code == 0
    assert Path("report.json").read_text().startswith("{")


def test_pictures_do_not_replace_what_came_to_exist(jaxsep, monkeypatch):
    for path in ("song.wav", "stems/vocals.wav"):
        write_song(path, 0.5, sample_rate=8000)
    meanwhile(monkeypatch, "jaxsep.evaluation.plots.make_plot", "plots/waveforms.png")
    options = ("plot", "song.wav", "--estimates", "stems", "--kinds", "waveforms")
    check(jaxsep(*options), "plots/waveforms.png", "plots/waveforms.2.png", ".")
    assert jaxsep(*options, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("function", "path", "kept"),
    [
        ("jaxsep.evaluation.report.make_report", "out/summary.md", "out/summary.2.md"),
        ("jaxsep.evaluation.scoring._score", "out/est/test/one.json", "out/est/test/one.2.json"),
    ],
)
def test_reports_and_records_do_not_replace_what_came_to_exist(jaxsep, place, monkeypatch, function, path, kept):
    two_tracks(place)
    Path(path).parent.mkdir(parents=True)
    meanwhile(monkeypatch, function, path)
    options = ("evaluate", "--estimates", "est", "--tracks", "true", "-o", "out", "--metrics", "sdr", "--quiet")
    check(jaxsep(*options), path, kept, "out")
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert jaxsep(*options, "--overwrite").exit_code == 0
    assert Path(path).read_text() != MINE
