"""Evaluation against museval on the same arrays, its records read by museval's own classes, and its limits."""

import importlib
import json
import math
import shutil
import typing
from pathlib import Path

import numpy as np
import pytest
import soundfile
from evaluation.scored_tracks import RATE, frames, noise, score, two_tracks, write, write_track

from jaxsep.errors import ConfigError
from jaxsep.evaluation.aggregates import ALL_STEMS, aggregate, remarks, track_scores, warnings
from jaxsep.evaluation.evaluate import baseline, estimates_on_disk, evaluate
from jaxsep.evaluation.scoring import ALL_METRICS, Metric, Settings
from jaxsep.evaluation.tracks import find_folders, find_musdb
from jaxsep.metrics.museval_wrapper import museval_scores
from jaxsep.metrics.sdr import global_sdr, si_sdr

# Records keep five decimals, as museval's do.
FIVE_DECIMALS = 0.6e-5


def test_records_hold_the_scores_of_museval_and_of_whole_tracks(tmp_path):
    made = two_tracks(tmp_path)
    records, failures = score(tmp_path, jobs=2)
    assert not failures
    assert list(records) == ["one", "two"]
    for name, (sources, estimates) in made.items():
        expected = museval_scores(sources, estimates, sample_rate=RATE)
        for stem in sources:
            for metric in ("SDR", "ISR", "SIR", "SAR"):
                np.testing.assert_allclose(
                    frames(records[name], stem, metric), expected.frames(stem, metric.lower()), atol=FIVE_DECIMALS
                )
            whole = records[name]["jaxsep"]["whole_track"]
            assert whole["sdr"][stem] == pytest.approx(float(global_sdr(sources[stem], estimates[stem])), abs=1e-9)
            assert whole["si-sdr"][stem] == pytest.approx(float(si_sdr(sources[stem], estimates[stem])), abs=1e-9)


def test_museval_itself_can_be_asked_beside_ours(tmp_path):
    two_tracks(tmp_path)
    records, _ = score(tmp_path, settings={"metrics": ("bss-eval", "museval")})
    for record in records.values():
        assert len(record["targets"]) == 2
        assert record["jaxsep"]["museval_targets"] == record["targets"]  # to five decimals
    alone, _ = score(tmp_path, "alone", settings={"metrics": ("museval",)})
    assert [record["targets"] for record in alone.values()] == [record["targets"] for record in records.values()]


def test_musevals_own_tools_read_the_records_and_aggregate_as_we_do(tmp_path):
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        pytest.skip("museval's package cannot be imported without the programs ffmpeg and ffprobe")
    museval = importlib.import_module("museval")
    schema = json.loads((Path(museval.__path__[0]) / "musdb.schema.json").read_text())
    two_tracks(tmp_path)
    records, _ = score(tmp_path)
    for record in records.values():
        importlib.import_module("jsonschema").validate(record, schema)
    ours = {(row.stem, row.metric): row for row in aggregate(track_scores(list(records.values())))}
    for over_frames, over_tracks, name in (
        ("median", "median", "median_of_medians"),
        ("median", "mean", "mean_of_medians"),
        ("mean", "median", "median_of_means"),
        ("mean", "mean", "mean_of_means"),
    ):
        store = museval.EvalStore(frames_agg=over_frames, tracks_agg=over_tracks)
        store.add_eval_dir(tmp_path / "out" / "est")
        theirs = store.agg_frames_tracks_scores()
        assert len(theirs) == 8
        for (stem, metric), value in theirs.items():
            assert getattr(ours[stem, metric], name) == pytest.approx(float(value), abs=1e-9)
    methods = museval.MethodStore()
    methods.add_eval_dir(tmp_path / "out" / "est")
    assert set(methods.df["method"]) == {"est"}
    assert set(methods.df["track"]) == {"one", "two"}


def test_aggregates_are_of_medians_and_means_and_leave_out_what_is_not_finite(tmp_path):
    def record(track, values):
        frames = [{"time": 0, "duration": 1, "metrics": dict.fromkeys(("SDR", "ISR", "SIR", "SAR"), v)} for v in values]
        own = {
            "system": "s",
            "track": track,
            "settings": {"stems": ["a"]},
            "museval_targets": [],
            "whole_track": {"sdr": {"a": values[0]}, "si-sdr": {"a": None}},
            "silent_estimates": [],
            "exact_estimates": [],
        }
        return {"targets": [{"name": "a", "frames": frames}], "jaxsep": own}

    rows = aggregate(
        track_scores([record("x", [1.0, 2.0, 9.0]), record("y", [3.0, math.nan]), record("z", [5.0, 5.0, 6.0, 20.0])])
    )
    found = {row.metric: row for row in rows}
    # Frame medians 2, 3, 5.5; frame means 4, 3, 9.
    assert found["SDR"].median_of_medians == 3.0
    assert found["SDR"].mean_of_medians == 3.5
    assert found["SDR"].median_of_means == 4.0
    assert found["SDR"].mean_of_means == pytest.approx(16 / 3)
    assert found["SDR"].tracks == 3
    assert (found["global SDR"].median_of_medians, found["global SDR"].mean_of_means) == (3.0, 3.0)
    assert found["SI-SDR"].tracks == 0
    assert math.isnan(found["SI-SDR"].mean_of_means)


def test_estimates_are_cut_and_filled_by_musevals_rule(tmp_path):
    sources = {"vocals": noise(2.5, 0), "drums": noise(2.5, 1)}
    estimates = {"vocals": 0.9 * noise(3.0, 0), "drums": (0.9 * sources["drums"])[: 2 * RATE + 100]}
    write_track(tmp_path, "song", sources, estimates)
    records, failures = score(tmp_path)
    assert not failures
    # What museval.pad_or_truncate does.
    fitted = {
        "vocals": estimates["vocals"][: len(sources["vocals"])],
        "drums": np.pad(estimates["drums"], [(0, RATE // 2 - 100), (0, 0)]),
    }
    expected = museval_scores(sources, fitted, sample_rate=RATE)
    for stem in sources:
        np.testing.assert_allclose(frames(records["song"], stem, "SDR"), expected.frames(stem), atol=FIVE_DECIMALS)
    assert records["song"]["jaxsep"]["notes"] == [
        "The estimate of 'drums' has 8100 samples and was filled with silence to 10000.",
        "The estimate of 'vocals' has 12000 samples and was cut to 10000.",
    ]


@pytest.mark.parametrize(("seconds", "channels"), [(1.5, 1), (0.3, 2), (1 / RATE, 1)])
def test_one_channel_and_very_short_tracks_match_museval(tmp_path, seconds, channels):
    sources = {"a": noise(seconds, 3, channels), "b": noise(seconds, 4, channels)}
    estimates = {stem: 0.5 * waveform for stem, waveform in sources.items()}
    write_track(tmp_path, "song", sources, estimates)
    records, failures = score(tmp_path)
    assert not failures
    expected = museval_scores(sources, estimates, sample_rate=RATE)
    for stem in sources:
        np.testing.assert_allclose(frames(records["song"], stem, "SDR"), expected.frames(stem), atol=FIVE_DECIMALS)


def test_silence_takes_out_frames_as_in_museval_and_stems_by_policy(tmp_path):
    sources = {stem: noise(3.0, seed) for seed, stem in enumerate(("vocals", "drums", "bass", "other"))}
    sources["vocals"][RATE : 2 * RATE] = 0.0
    sources["bass"][:] = 0.0
    estimates = {stem: 0.7 * waveform + 0.1 * noise(3.0, 9) for stem, waveform in sources.items()}
    estimates["other"][:] = 0.0
    write_track(tmp_path, "song", sources, estimates)
    records, failures = score(tmp_path)
    assert not failures
    rest = ("vocals", "drums", "other")
    # museval refuses estimates that are silent throughout. Those of the others do not depend on them.
    stand_in = estimates | {"other": sources["other"]}
    expected = museval_scores(
        {stem: sources[stem] for stem in rest}, {stem: stand_in[stem] for stem in rest}, sample_rate=RATE
    )
    record = records["song"]
    assert {target["name"] for target in record["targets"]} == set(rest)
    for stem in ("vocals", "drums"):
        found = frames(record, stem, "SIR")
        assert [math.isnan(value) for value in found] == [False, True, False]
        np.testing.assert_allclose(found, expected.frames(stem, "sir"), atol=FIVE_DECIMALS)
    whole = record["jaxsep"]["whole_track"]
    assert whole["sdr"]["bass"] is None
    assert whole["sdr"]["other"] == 0.0
    assert whole["si-sdr"]["other"] is None
    assert (record["jaxsep"]["silent_references"], record["jaxsep"]["silent_estimates"]) == (["bass"], ["other"])
    assert any("'bass' is left out for all systems: its true source is silent" in each for each in remarks([record]))
    rows = {(row.stem, row.metric): row for row in aggregate(track_scores([record]))}
    assert math.isnan(rows["bass", "SDR"].median_of_medians)
    assert rows["other", "SDR"].median_of_medians == pytest.approx(0.0, abs=1e-5)
    assert (rows["other", "SDR"].tracks, rows["other", "SIR"].tracks) == (1, 0)
    assert rows[ALL_STEMS, "SDR"].tracks == 0  # a track that lacks a stem has no mean over stems


def test_a_system_does_not_gain_by_giving_out_silence(tmp_path):
    """The bass of the hard song: silence instead of a bad estimate must not raise any score of any stem."""
    stems = ("bass", "drums", "vocals")
    for number, name in enumerate(("easy", "hard")):
        sources = {stem: noise(3.0, 10 * number + seed) for seed, stem in enumerate(stems)}
        error = {"easy": 0.05, "hard": 1.5}[name]
        tried = {stem: source + error * noise(3.0, 50 + seed) for seed, (stem, source) in enumerate(sources.items())}
        write_track(tmp_path, name, sources, tried)
        for stem, waveform in tried.items():
            silent = name == "hard" and stem == "bass"
            write(tmp_path / "quitter" / name / f"{stem}.wav", 0 * waveform if silent else waveform)
    tracks = find_folders(tmp_path / "true")
    systems = [estimates_on_disk(tmp_path / name, tracks, None, None)[0] for name in ("est", "quitter")]
    settings = Settings(stems=stems, metrics=("bss-eval", "museval", "sdr", "si-sdr", "si-sir"))
    records, failures = evaluate(tracks, systems, settings, tmp_path / "out")
    assert not failures
    rows = {(row.system, row.metric, row.stem): row for row in aggregate(track_scores(records))}
    for metric in ("SDR", "museval SDR", "global SDR"):
        row = rows["quitter", metric, "bass"]
        scores = [score for score in track_scores(records) if (score.system, score.metric) == ("quitter", metric)]
        (hard,) = [score for score in scores if (score.track, score.stem) == ("hard", "bass")]
        assert hard.frames_median == pytest.approx(0.0, abs=1e-4)
        assert (row.tracks, row.silent_estimates, row.note) == (2, 1, "silent on 1 track, which count")
        # 0 dB is what silence is worth, and no more than that.
        assert row.mean_of_medians < rows["quitter", metric, "drums"].mean_of_medians + 10
    for metric in ("SIR", "SAR", "museval SIR", "SI-SDR", "SI-SIR"):
        ours, theirs = (rows[system, metric, "bass"] for system in ("quitter", "est"))
        assert (ours.tracks, theirs.tracks) == (1, 1)  # the easy one
        assert ours.mean_of_medians == theirs.mean_of_medians
        assert ours.note.startswith("not defined on 1 track, where the estimate is silent")
        assert theirs.note == "over the 1 of 2 tracks that all systems have a score for"
    # The other stems are scored with the same source set as ever.
    for metric in ("SDR", "SIR", "SAR", "museval SIR", "SI-SDR"):
        for stem in ("drums", "vocals"):
            assert rows["quitter", metric, stem].mean_of_means == rows["est", metric, stem].mean_of_means
    (said,) = warnings(records)
    assert said.startswith("quitter gives out silence for 'bass' on 1 of 2 tracks (hard).")


def test_tracks_that_one_system_lacks_are_left_out_for_all(tmp_path):
    two_tracks(tmp_path)
    tracks = find_folders(tmp_path / "true")
    system, stems = estimates_on_disk(tmp_path / "est", tracks, None, None)
    path = tmp_path / "est/two/drums.wav"
    path.write_bytes(path.read_bytes()[:-30_000])
    records, failures = evaluate(tracks, [system, baseline("mixture")], Settings(stems=stems), tmp_path / "out")
    assert len(failures) == 1
    rows = {(row.system, row.metric, row.stem): row for row in aggregate(track_scores(records))}
    assert rows["est", "SDR", "vocals"].tracks == rows["mixture", "SDR", "vocals"].tracks == 1
    scores = [each for each in track_scores(records) if (each.system, each.metric) == ("mixture", "global SDR")]
    (alone,) = [each.frames_median for each in scores if (each.track, each.stem) == ("one", "vocals")]
    assert rows["mixture", "global SDR", "vocals"].mean_of_means == alone
    assert warnings(records) == ["est has no scores for 1 of 2 tracks (two), which are left out for all systems."]


def test_exact_estimates_count_and_are_called_so(tmp_path):
    made = two_tracks(tmp_path)
    sources = made["one"][0]
    for stem, waveform in sources.items():
        write(tmp_path / "est/one" / f"{stem}.wav", waveform)
    records, _ = score(tmp_path, settings={"metrics": ("bss-eval", "sdr", "si-sdr", "si-sir", "log-wmse", "bleedless")})
    assert records["one"]["jaxsep"]["exact_estimates"] == ["drums", "vocals"]
    scores = {(each.track, each.metric, each.stem): each for each in track_scores(list(records.values()))}
    for metric in ("SDR", "ISR", "SIR", "SAR", "SI-SDR", "SI-SIR"):
        exact = scores["one", metric, "drums"]
        # It does not leave the mean, and rounding does not rule it.
        assert (exact.frames_median, exact.is_exact) == (150.0, True)
        assert not scores["two", metric, "drums"].is_exact
    assert scores["one", "global SDR", "drums"].is_exact
    assert scores["one", "bleedless", "drums"].frames_median == 100.0
    assert not scores["one", "log-WMSE", "drums"].is_exact


def test_silence_in_some_frames_of_an_estimate_is_told(tmp_path):
    """museval's rule takes these frames from all stems, so that whoever gives out silence chooses the frames."""
    sources = {"vocals": noise(3.0, 0), "drums": noise(3.0, 1)}
    estimates = {stem: 0.9 * waveform for stem, waveform in sources.items()}
    estimates["drums"][RATE : 2 * RATE] = 0.0
    write_track(tmp_path, "song", sources, estimates)
    records, _ = score(tmp_path)
    (note,) = records["song"]["jaxsep"]["notes"]
    assert note.startswith("The estimate of 'drums' is silent in 1 of 3 frames in which all true sources sound")


def test_records_of_an_earlier_format_are_made_anew(tmp_path):
    two_tracks(tmp_path)
    score(tmp_path)
    path = tmp_path / "out/est/test/one.json"
    record = json.loads(path.read_text())
    del record["jaxsep"]["format"], record["jaxsep"]["silent_estimates"]
    path.write_text(json.dumps(record))
    scored = []
    records, _ = score(tmp_path, progress=lambda job, failure, total: scored.append(job.track.name))
    assert scored == ["one"] and records["one"]["jaxsep"]["silent_estimates"] == []


def test_names_find_each_other_in_both_forms_of_unicode(tmp_path):
    """macOS writes an accent as a character of its own."""
    composed, decomposed = "Caf\u00e9", "Cafe\u0301"
    sources = {"vocals": noise(1.0, 0), "m\u00e9lodie": noise(1.0, 1)}
    for track, tree, stem in ((decomposed, "true", "me\u0301lodie"), (composed, "est", "m\u00e9lodie")):
        for name, waveform in (("vocals", sources["vocals"]), (stem, sources["m\u00e9lodie"])):
            write(tmp_path / tree / track / f"{name}.wav", 0.5 * waveform if tree == "est" else waveform)
    records, failures = score(tmp_path)
    assert not failures
    assert records[composed]["jaxsep"]["whole_track"]["sdr"]["m\u00e9lodie"] == pytest.approx(6.02, abs=0.01)
    records, failures = score(tmp_path, "again", ("vocals", "m\u00e9lodie"))
    assert not failures and len(records) == 1


def test_settings_take_all_metrics_that_there_are():
    assert typing.get_args(Metric) == ALL_METRICS
    with pytest.raises(ConfigError, match="metrics"):
        Settings.parse({"metrics": ("sisdr",), "stems": ("a",)}, where="the test")


def test_a_track_of_silence_has_no_score_and_is_no_crash(tmp_path):
    silent = {"a": np.zeros((RATE, 1)), "b": np.zeros((RATE, 1))}
    write_track(tmp_path, "song", silent, silent)
    records, failures = score(tmp_path, settings={"metrics": ("bss-eval", "museval", "sdr", "si-sdr")})
    assert not failures
    assert records["song"]["targets"] == []
    assert not any(row.tracks for row in aggregate(track_scores(list(records.values()))))


def test_the_accompaniment_is_the_sum_of_what_no_other_stem_is(tmp_path):
    sources = {stem: noise(1.5, seed) for seed, stem in enumerate(("vocals", "drums", "bass"))}
    accompaniment = sources["drums"] + sources["bass"]
    write_track(tmp_path, "song", sources, {"vocals": 0.9 * sources["vocals"], "accompaniment": 0.6 * accompaniment})
    records, _ = score(tmp_path)
    # 0.4 of it is missing, and float32 sums of two: seven digits.
    assert records["song"]["jaxsep"]["whole_track"]["sdr"]["accompaniment"] == pytest.approx(
        -20 * math.log10(0.4), abs=1e-4
    )


def test_the_mixture_as_a_baseline_is_that_of_the_file_or_the_sum(tmp_path):
    sources = {"vocals": noise(1.5, 0), "drums": 0.5 * noise(1.5, 1)}
    write_track(tmp_path, "song", sources)
    tracks = find_folders(tmp_path / "true")
    (record,), _ = evaluate(tracks, [baseline("mixture")], Settings(stems=("vocals", "drums")), tmp_path / "sum")
    ratio = np.square(sources["vocals"]).sum() / np.square(sources["drums"]).sum()
    # The error of the mixture as vocals is the drums, in float32 of 16-bit integers: exact, but for the halves.
    assert record["jaxsep"]["whole_track"]["sdr"]["vocals"] == pytest.approx(10 * math.log10(ratio), abs=1e-2)
    write(tmp_path / "true/song/mixture.wav", 2 * sources["vocals"])
    tracks = find_folders(tmp_path / "true")
    (record,), _ = evaluate(tracks, [baseline("mixture")], Settings(stems=("vocals", "drums")), tmp_path / "file")
    assert record["jaxsep"]["whole_track"]["sdr"]["vocals"] == pytest.approx(0.0, abs=1e-6)


def test_oracles_know_of_parts_that_no_stem_holds(tmp_path):
    """Without the drums among its sources, the mask of the vocals would be one, and the mixture all that it gives."""
    sources = {"vocals": noise(1.5, 0), "drums": noise(1.5, 1)}
    write_track(tmp_path, "song", sources)
    tracks = find_folders(tmp_path / "true")
    systems = [baseline(name) for name in ("mixture", "irm1", "irm2", "ibm1", "mwf")]
    records, failures = evaluate(tracks, systems, Settings(stems=("vocals",), metrics=("sdr",)), tmp_path / "out")
    assert not failures
    scores = {record["jaxsep"]["system"]: record["jaxsep"]["whole_track"]["sdr"]["vocals"] for record in records}
    assert all(scores[name] > scores["mixture"] + 3 for name in ("irm1", "irm2", "ibm1", "mwf"))


def test_musdb_is_found_in_both_forms_without_its_package(tmp_path):
    for name in ("mixture", "drums", "bass", "other", "vocals"):
        write(tmp_path / "hq/test/A - B" / f"{name}.wav", noise(0.1, 0))
    (track,) = find_musdb(tmp_path / "hq", "test", is_wav=True)
    assert (track.name, tuple(track.parts)) == ("A - B", ("drums", "bass", "other", "vocals"))
    assert track.mixture is not None
    with pytest.raises(ConfigError, match=r"no files of MUSDB18 .* add --hq"):
        find_musdb(tmp_path / "hq", "test", is_wav=False)
    (tmp_path / "hq/test/A - B/bass.wav").unlink()
    with pytest.raises(ConfigError, match=r"bass.wav' is missing"):
        find_musdb(tmp_path / "hq", "test", is_wav=True)
    from parity.spleeter_reference.load import EXCERPT

    from jaxsep.compare.song import excerpt

    (tmp_path / "mp4/test").mkdir(parents=True)
    (tmp_path / "mp4/test" / EXCERPT).symlink_to(excerpt())
    (track,) = find_musdb(tmp_path / "mp4", "test", is_wav=False)
    assert track.name == EXCERPT.removesuffix(".stem.mp4")
    assert (track.sample_rate, track.channels) == (44100, 2)
    assert [stream.stream for stream in track.parts.values()] == [1, 2, 3, 4]


@pytest.mark.parametrize("place", ["song", "test/song", "test/song/mixture", "song.stem"])
def test_estimates_are_found_where_museval_and_separate_put_them(tmp_path, place):
    write_track(tmp_path, "song", {"a": noise(0.5, 0), "b": noise(0.5, 1)})
    for stem in "ab":
        write(tmp_path / "est" / place / f"{stem}.flac", noise(0.5, 2), subtype="PCM_16")
    tracks = find_folders(tmp_path / "true")
    system, stems = estimates_on_disk(tmp_path / "est", tracks, "test", None)
    assert stems == ("a", "b")
    assert system.estimates["song"]["a"].path == tmp_path / "est" / place / "a.flac"
    assert soundfile.info(system.estimates["song"]["a"].path).samplerate == RATE
