"""Runs of an evaluation: they go on, refuse what does not fit, and outlive files and processes that fail."""

import os
import shutil
import sys

import pytest
from evaluation.scored_tracks import frames, noise, score, two_tracks, write, write_track

from jaxsep.errors import AudioError, ConfigError
from jaxsep.evaluation import scorers
from jaxsep.evaluation.evaluate import baseline, evaluate
from jaxsep.evaluation.scoring import Settings
from jaxsep.evaluation.tracks import find_folders


def test_a_run_goes_on_where_it_stopped_and_scores_what_has_changed(tmp_path):
    two_tracks(tmp_path)
    score(tmp_path)
    done = tmp_path / "out/est/test"
    before = {path.name: path.stat().st_mtime_ns for path in done.iterdir()}
    (done / "two.json").unlink()
    scored = []
    records, _ = score(tmp_path, progress=lambda job, failure, total: scored.append(job.track.name))
    assert scored == ["two"]
    assert list(records) == ["one", "two"]
    assert (done / "one.json").stat().st_mtime_ns == before["one.json"]
    write(tmp_path / "est/one/vocals.wav", noise(3.5, 77))
    os.utime(tmp_path / "est/one/vocals.wav", (1, 1))
    scored.clear()
    score(tmp_path, progress=lambda job, failure, total: scored.append(job.track.name))
    assert scored == ["one"]
    assert sorted(path.name for path in done.iterdir()) == ["one.json", "two.json"]


def test_records_of_other_settings_are_refused_and_kept_unless_told(tmp_path):
    two_tracks(tmp_path)
    score(tmp_path)
    kept = (tmp_path / "out/est/test/one.json").read_bytes()
    with pytest.raises(ConfigError, match=r"other settings \(window_seconds 1.0 instead of 0.5\).*--overwrite"):
        score(tmp_path, settings={"window_seconds": 0.5})
    with pytest.raises(ConfigError, match=r"other settings \(stems \['drums', 'vocals'\] instead of \['vocals'\]\)"):
        score(tmp_path, stems=("vocals",))
    assert (tmp_path / "out/est/test/one.json").read_bytes() == kept
    records, _ = score(tmp_path, settings={"window_seconds": 0.5}, overwrite=True)
    assert len(frames(records["one"], "vocals", "SDR")) == 4  # frames of 0.5 s every second in 3.5 s
    (tmp_path / "out/est/test/one.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"one.json' is no record of jaxsep's"):
        score(tmp_path, settings={"window_seconds": 0.5})
    assert (tmp_path / "out/est/test/one.json").read_text() == "mine"


def test_a_file_that_cannot_be_decoded_fails_its_track_and_no_other(tmp_path):
    two_tracks(tmp_path)
    path = tmp_path / "est/one/drums.wav"
    path.write_bytes(path.read_bytes()[:-30_000])
    for jobs in (1, 2):
        records, failures = score(tmp_path, f"out{jobs}", jobs=jobs)
        assert list(records) == ["two"]
        (failure,) = failures
        assert str(failure).startswith("The track 'one' (est) cannot be scored: ")
        assert "cut short" in str(failure)
        assert not (tmp_path / f"out{jobs}/est/test/one.json").exists()


def test_a_process_that_is_ended_from_outside_fails_its_track_and_no_other(tmp_path, monkeypatch):
    made = two_tracks(tmp_path)
    write_track(tmp_path, "three", *made["one"])
    jobs = []
    started = scorers.Scorers.submit

    def submit(self, job):
        if job.track.name == "one":
            for worker in self._workers:
                worker._has_begun = worker._pipe.recv()
                worker._process.kill()
                worker._process.join()
        jobs.append(job.track.name)
        return started(self, job)

    monkeypatch.setattr(scorers.Scorers, "submit", submit)
    records, failures = score(tmp_path, jobs=2)
    # Both processes were ended, and each fails the track that it is given next.
    assert jobs == ["one", "three", "two"] and list(records) == ["two"]
    assert [str(failure).split("'")[1] for failure in failures] == ["one", "three"]
    assert all("was ended from outside, perhaps for its memory" in str(failure) for failure in failures)
    monkeypatch.undo()
    records, failures = score(tmp_path, jobs=2)
    assert not failures and len(records) == 3


def test_processes_that_do_not_begin_are_told_once_for_each_track_and_not_started_again(tmp_path, monkeypatch):
    two_tracks(tmp_path)
    # What a program from standard input has for its main file, which the processes cannot read.
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "<stdin>"), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    begun = []
    start = scorers._Worker._start
    monkeypatch.setattr(scorers._Worker, "_start", lambda self: (begun.append(self), start(self)))
    records, failures = score(tmp_path, jobs=2)
    assert not records and len(begun) == 2
    assert str(failures[0]) == "The track 'one' cannot be scored: no process for it begins; use --jobs 1."


def test_what_does_not_fit_is_refused_before_any_work(tmp_path):
    made = two_tracks(tmp_path)
    sources = made["one"][0]
    (tmp_path / "est/two/drums.wav").unlink()
    with pytest.raises(ConfigError, match=r"track 'two' have no stem 'drums', only vocals"):
        score(tmp_path)
    write(tmp_path / "est/two/drums.wav", sources["drums"], rate=8000)
    with pytest.raises(AudioError, match=r"est/two/drums.wav' has 8000 Hz with 1 channel and its track 4000 Hz"):
        score(tmp_path)
    write(tmp_path / "est/two/drums.wav", sources["drums"].repeat(2, axis=1))
    with pytest.raises(AudioError, match=r"has 4000 Hz with 2 channels and its track 4000 Hz with 1 channel"):
        score(tmp_path)
    with pytest.raises(ConfigError, match=r"no true source for the stem 'piano', only drums, vocals"):
        evaluate(find_folders(tmp_path / "true"), [baseline("mixture")], Settings(stems=("piano",)), tmp_path / "out")
    shutil.rmtree(tmp_path / "est/two")
    with pytest.raises(ConfigError, match=r"no estimates of the track 'two' in .* Known: one"):
        score(tmp_path)
    with pytest.raises(ConfigError, match="no baseline 'irm9'; give some of mixture, irm1"):
        baseline("irm9")
    write(tmp_path / "true/one/bass.wav", sources["drums"], rate=8000)
    with pytest.raises(AudioError, match=r"track 'one' has 'bass' in 8000 Hz .* and 'drums' in 4000 Hz"):
        score(tmp_path)
    for stem in ("vocals", "drums", "accompaniment"):
        write(tmp_path / "est/one" / f"{stem}.wav", sources["vocals"])
    (tmp_path / "true/one/bass.wav").unlink()
    with pytest.raises(ConfigError, match=r"accompaniment holds some of the others; name the source set with --stems"):
        score(tmp_path)
    assert not (tmp_path / "out").exists()
