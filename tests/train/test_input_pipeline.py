"""Examples of a run: the same for a seed and a number, whatever the host, the thread and the step it begins at."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxsep.errors import AudioError
from train.input_pipeline import Pipeline
from train.tracks import find_tracks

ROOT = Path(__file__).parents[2]


def pipeline_of(config, **hosts) -> Pipeline:
    return Pipeline(config, find_tracks(config.data, config.model).train, **hosts)


def all_batches(pipeline: Pipeline, first_step: int = 0) -> list:
    iterator = pipeline.batches(first_step)
    try:
        return list(iterator)
    finally:
        iterator.close()


def test_an_example_is_the_stretch_of_the_track_that_it_is_said_to_be(config_for, folders, song_int16) -> None:
    pipeline = pipeline_of(config_for(folders, "augment.shift=100"))
    batch = pipeline.batch(3)
    assert batch.sources.shape == (4, 2, 4288 + 100, 2) and batch.sources.dtype == np.float32
    assert batch.index.tolist() == [12, 13, 14, 15] and batch.index.dtype == np.int32 and batch.mixture is None
    for number, sources in zip(batch.index, batch.sources, strict=True):
        name, seconds = pipeline.describe(int(number)).removesuffix(" s").split(" at ")
        # Three decimals of seconds are 44 samples.
        near = round(float(seconds) * 44100)
        vocals = np.roll(song_int16["vocals"], {"first": 0, "second": 10000}[name], axis=0) / np.float32(2**15)
        starts = [start for start in range(near - 23, near + 24) if np.array_equal(vocals[start:][:4388], sources[0])]
        assert len(starts) == 1 or not sources[0].any()


def test_a_run_that_goes_on_gets_the_examples_that_it_would_have_had(config_for, folders) -> None:
    changes = ("augment.remix=0.5", "augment.stretch=0.3", "data.silent=redraw", "data.threads=4")
    config = config_for(folders, *changes, "training.steps=7")
    whole = all_batches(pipeline_of(config))
    rest = all_batches(pipeline_of(config), first_step=4)
    assert (len(whole), len(rest)) == (7, 3)
    for before, after in zip(whole[4:], rest, strict=True):
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)
    other_seed = pipeline_of(config_for(folders, *changes, "training.seed=1")).batch(0)
    assert not np.array_equal(other_seed.sources, whole[0].sources)


@pytest.mark.parametrize("hosts", [2, 4])
def test_several_hosts_have_together_what_one_has(config_for, folders, hosts) -> None:
    config = config_for(folders, "augment.remix=0.5", "training.steps=3")
    alone = all_batches(pipeline_of(config, host=0, hosts=1))
    shares = [all_batches(pipeline_of(config, host=host, hosts=hosts)) for host in range(hosts)]
    for step, batch in enumerate(alone):
        together = {
            int(number): sources
            for share in shares
            for number, sources in zip(share[step].index, share[step].sources, strict=True)
        }
        assert {len(share[step].index) for share in shares} == {4 // hosts}
        assert sorted(together) == batch.index.tolist()
        for number, sources in zip(batch.index, batch.sources, strict=True):
            np.testing.assert_array_equal(together[int(number)], sources)


def test_every_track_comes_once_in_as_many_examples_as_there_are(config_for) -> None:
    pipeline = pipeline_of(config_for(None))
    names = [pipeline.describe(number).split(" at ")[0] for number in range(24)]
    epochs = [names[:8], names[8:16], names[16:]]
    assert [len(set(epoch)) for epoch in epochs] == [8, 8, 8]
    assert epochs[0] != epochs[1] and epochs[1] != epochs[2]


def test_places_are_uniform_over_the_track(config_for) -> None:
    pipeline = pipeline_of(config_for(None))
    seconds = [float(pipeline.describe(number).split(" at ")[1].removesuffix(" s")) for number in range(400)]
    # Synthetic tracks last 30 s and an example 0.1 s. 400 places in 5 equal parts: 80 each with a deviation of 8, and
    # four of them are never exceeded by chance.
    counts, _ = np.histogram(seconds, bins=5, range=(0, 29.9))
    assert np.all(np.abs(counts - 80) < 32) and max(seconds) <= 29.91


def test_remixed_sources_come_from_tracks_of_their_own(config_for) -> None:
    pipeline = pipeline_of(config_for(None, "augment.remix=1.0"))
    tracks = find_tracks(config_for(None).data, config_for(None).model).train
    described = [pipeline.describe(number).split(", ") for number in range(80)]
    pairs = [tuple(place.split(" of ")[1].split(" at ")[0] for place in places) for places in described]
    assert {places[1].split(" of ")[0] for places in described} == {"accompaniment"}
    # Of 8 tracks the same one comes by chance once in 8.
    assert sum(one == other for one, other in pairs) < 30
    assert len({one for one, _ in pairs[:8]}) == len({other for _, other in pairs[:8]}) == 8
    sources = pipeline.batch(0).sources[0]
    for number, place in enumerate(described[0]):
        name, seconds = place.split(" of ")[1].removesuffix(" s").split(" at ")
        (track,) = [track for track in tracks if track.name == name]
        near = round(float(seconds) * 44100)
        expected = track.read(near - 30, 4288 + 60)[number]
        assert any(np.array_equal(expected[shift:][:4288], sources[number]) for shift in range(60))


def test_the_share_of_remixed_and_stretched_examples_is_their_probability(config_for) -> None:
    pipeline = pipeline_of(config_for(None, "augment.remix=0.3", "augment.stretch=0.2"))
    described = [pipeline.describe(number) for number in range(200)]
    # 60 and 40 of 200, with deviations of 6.5 and 5.7; four of them.
    assert abs(sum("accompaniment of" in each for each in described) - 60) < 26
    assert abs(sum("semitones" in each for each in described) - 40) < 23


def test_silent_stems_are_drawn_again_where_that_is_asked_for(config_for, tmp_path, song_int16, write) -> None:
    vocals = song_int16["vocals"].copy()
    vocals[20000:] = 0  # the song begins with silence, too
    vocals[200000:] = song_int16["vocals"][200000:]
    write(tmp_path / "t", {"vocals": vocals, "drums": song_int16["drums"]})

    def silent(config) -> int:
        pipeline = pipeline_of(config)
        return sum(not example[0].any() for step in range(10) for example in pipeline.batch(step).sources)

    kept, redrawn = (silent(config_for(tmp_path, f"data.silent={what}")) for what in ("keep", "redraw"))
    # 0.7 of the track is silent: of 40 examples 28, and 40 * 0.7 ** 11 = 0.8 after ten more draws.
    assert kept > 15 and redrawn < 5


def test_the_file_of_the_mixture_is_read_at_the_same_place(config_for, musdb18hq, song_int16) -> None:
    batch = pipeline_of(config_for(musdb18hq, "data.mixture=file")).batch(0)
    assert batch.mixture is not None and batch.mixture.shape == (4, 4288, 2)
    # The fixture's mixture is the exact sum of its files in 16 bits.
    np.testing.assert_allclose(batch.mixture, batch.sources.sum(axis=1), rtol=0, atol=1e-7)
    assert batch.mixture.any()


def test_an_unreadable_file_stops_the_run_with_its_name_and_hangs_nothing(config_for, folders) -> None:
    config = config_for(folders, "training.steps=50", "data.threads=4")
    pipeline = pipeline_of(config)
    iterator = pipeline.batches()
    next(iterator)
    (folders / "train/second/drums.wav").unlink()
    with pytest.raises(AudioError, match=r"drums\.wav.*; mend it, or set data\.corrupt to 'substitute'"):
        for _ in range(50):
            next(iterator)
    iterator.close()


def test_an_unreadable_file_is_substituted_in_every_run_alike_and_told_once(config_for, folders, caplog) -> None:
    config = config_for(folders, "data.corrupt=substitute", "training.steps=6")
    tracks = find_tracks(config.data, config.model).train
    (folders / "train/second/drums.wav").write_bytes(b"RIFF")
    first = all_batches(Pipeline(config, tracks))
    assert [record.message for record in caplog.records if "drums.wav" in record.message] != []
    assert len(caplog.records) == 1
    again = all_batches(Pipeline(config, tracks), first_step=2)
    for one, other in zip(first[2:], again, strict=True):
        np.testing.assert_array_equal(one.sources, other.sources)
    pipeline = Pipeline(config, tracks)
    assert {pipeline.describe(number).split(" at ")[0] for number in range(24)} == {"first"}


def test_substitutes_end_where_nothing_can_be_read(config_for, folders) -> None:
    config = config_for(folders, "data.corrupt=substitute")
    tracks = find_tracks(config.data, config.model).train
    for path in folders.glob("train/*/drums.wav"):
        path.write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"nor could what was taken in its place be read"):
        Pipeline(config, tracks).batch(0)


@pytest.mark.parametrize("ending", ["iterator.close()", "pass", "raise SystemExit(0)"])
def test_a_process_ends_though_examples_are_being_read(tmp_path, folders, config_for, ending) -> None:
    config_for(folders)  # writes the recipe
    code = (
        "from pathlib import Path; from train.config import load_config; from train.tracks import find_tracks;"
        "from train.input_pipeline import Pipeline;"
        f"config = load_config(Path({str(tmp_path / 'small.yaml')!r}), ['data.root={folders}',"
        "'training.steps=100000', 'data.prefetch=16']);"
        "iterator = Pipeline(config, find_tracks(config.data, config.model).train).batches();"
        f"print(next(iterator).index, flush=True); {ending}"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"[0 1 2 3]\n"
        began = time.monotonic()
        assert process.wait(timeout=30) == 0
    # What was begun is read to its end: a few batches of a few milliseconds, on a machine that may be busy.
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("remix", [0, 1])
def test_examples_have_the_level_at_which_the_network_hears_their_tracks(config_for, folders, remix) -> None:
    """As a Separator brings the whole track to it; by numpy's own mean and deviation."""
    plain = config_for(folders, f"augment.remix={remix}")
    levelled = config_for(folders, f"augment.remix={remix}", "model.procedure.normalise={ddof: 1, eps: 1.0e-8}")
    pipeline = pipeline_of(plain)
    levels = []
    for track in find_tracks(plain.data, plain.model).train:
        mono = track.read_mixture(0, track.length).mean(axis=1, dtype=np.float64)
        levels.append((mono.mean(), mono.std(ddof=1) + 1e-8))
    before, after = pipeline.batch(0), pipeline_of(levelled).batch(0)
    for number, own, found in zip(before.index, before.sources, after.sources, strict=True):
        draw = pipeline._draw(int(number), 0, substitute=False)
        tracks = draw.tracks * (len(own) // len(draw.tracks))
        expected = np.stack([(own[i] - levels[track][0]) / levels[track][1] for i, track in enumerate(tracks)])
        np.testing.assert_allclose(found, expected, atol=1e-5)  # float32 numbers up to ten or so
    assert not np.allclose(before.sources, after.sources)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_groups_exchange_their_sources_whatever_the_hosts(config_for, folders, hosts) -> None:
    changes = ("training.batch_size=8", "training.steps=3")
    plain = pipeline_of(config_for(folders, *changes))
    config = config_for(folders, *changes, "augment.remix_group=4")
    moved = 0
    for step in range(3):
        before = plain.batch(step).sources
        shares = [pipeline_of(config, host=host, hosts=hosts).batch(step) for host in range(hosts)]
        after = np.concatenate([share.sources for share in shares])
        assert np.concatenate([share.index for share in shares]).tolist() == list(range(8 * step, 8 * step + 8))
        for group in (slice(0, 4), slice(4, 8)):
            for source in range(2):
                places = [
                    [place for place, other in enumerate(before[group, source]) if np.array_equal(each, other)]
                    for each in after[group, source]
                ]
                assert sorted({place for found in places for place in found}) == [0, 1, 2, 3]
                moved += sum(place not in found for place, found in enumerate(places))
    assert moved > 10
    told = pipeline_of(config).describe(5)
    assert told.startswith("vocals of ") and ", accompaniment of " in told
