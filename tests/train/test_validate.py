"""Validation: the scores of what `jaxsep separate` writes, compiled once, and patience as PyTorch has it."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from separation.conftest import Gains, GainsConfig
from weights.small_models import small_spec, small_variables

import jaxsep
from jaxsep.dsp.cuts import Chunking
from jaxsep.errors import AudioError, ConfigError, SeparationError
from jaxsep.models import FAMILIES, Family, Procedure, Waveform
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.checkpoint import save_checkpoint
from train.config import RunConfig, ValidationConfig
from train.tracks import find_tracks
from train.validate import Scores, Validation, Validator, middle

RATE = 8000


def noise(seconds, seed, sample_rate=RATE, channels=2):
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((round(seconds * sample_rate), channels))).astype(np.float32)


def write_track(folder, *, seed=0, seconds=1.3, sample_rate=RATE, channels=2, **sources):
    folder.mkdir(parents=True)
    for number, name in enumerate(("vocals", "drums", "bass")):
        source = sources.get(name, noise(seconds, 10 * seed + number, sample_rate, channels))
        soundfile.write(folder / f"{name}.wav", source, sample_rate, subtype="FLOAT")


def run_config(root, spec=None, **changes):
    data = {"model": (spec or small_spec()).model_dump(), "data": {"root": str(root)}, "training": {"steps": 1}}
    validation = {"every_steps": 5, **changes.pop("validation", {})}
    return RunConfig.parse({**data, "validation": validation, **changes}, where="the test")


def drawn_variables(seed=0):
    drawn = small_variables(small_spec(), seed)
    return {**drawn, "batch_stats": jax.tree.map(np.abs, drawn["batch_stats"])}  # of variances, no other would do


def validator_of(config):
    return Validator(config, find_tracks(config.data, config.model).validation)


@pytest.fixture
def songs(tmp_path):
    """Tracks of other rates, channels and lengths than the model's; those in 'valid' are validated."""
    write_track(tmp_path / "train" / "one", seed=1)
    write_track(tmp_path / "valid" / "long", seed=2, seconds=2.7)
    write_track(tmp_path / "valid" / "mono", seed=3, channels=1)
    write_track(tmp_path / "valid" / "other rate", seed=4, sample_rate=11025)
    return tmp_path


@pytest.fixture
def gains_config(monkeypatch):
    """Makes a run whose model gives the mixture times a number for each source."""
    monkeypatch.setitem(FAMILIES, "gains", Family(GainsConfig, Gains, "waveform"))

    def make(root, gains=(0.5, 0.25), **changes):
        spec = ModelSpec(
            name="gains",
            family="gains",
            config=GainsConfig(n_sources=len(gains), gains=gains),
            stems=("vocals", "accompaniment"),
            sample_rate=RATE,
            channels=2,
            domain=Waveform(),
            procedure=Procedure(cutting=Chunking(chunk_length=1000, chunk_hop=700, window="crossfade")),
            licence="MIT",
            provenance="made for a test",
        )
        return run_config(root, spec, loss={"terms": [{"kind": "waveform_l1"}]}, **changes)

    return make


def sdr(true, estimate):
    """Mitsufuji et al. (2022), by its formula."""
    return 10 * np.log10((np.square(true).sum() + 1e-7) / (np.square(true - estimate).sum() + 1e-7))


def test_scores_are_those_of_the_stems_that_separate_file_writes(songs, tmp_path):
    spec, variables = small_spec(), drawn_variables()
    model = tmp_path / "model.safetensors"
    save_checkpoint(model, spec, variables)
    scores = validator_of(run_config(songs)).scores(variables)
    assert list(scores.tracks) == ["long", "mono", "other rate"]
    for name, found in scores.tracks.items():
        parts = {path.stem: soundfile.read(path, always_2d=True) for path in (songs / "valid" / name).iterdir()}
        sample_rate = parts["vocals"][1]
        true = {part: samples for part, (samples, _) in parts.items()}
        soundfile.write(tmp_path / "song.wav", sum(true.values()), sample_rate, subtype="FLOAT")
        jaxsep.separate_file(
            tmp_path / "song.wav",
            tmp_path / name,
            separator=jaxsep.Separator.from_pretrained(model),
            config=jaxsep.OutputConfig(subtype="FLOAT", clip="none"),
        )
        for stem, source in (("vocals", true["vocals"]), ("accompaniment", true["drums"] + true["bass"])):
            estimate, _ = soundfile.read(tmp_path / name / "song" / f"{stem}.wav", always_2d=True)
            # Files are summed and resampled in another order: float32 noise, next to estimates that are far off.
            assert found[stem] == pytest.approx(sdr(source, estimate), abs=1e-3)


def test_scores_of_a_known_model_are_those_of_the_formula_and_averaged_over_tracks_then_stems(songs, gains_config):
    validator = validator_of(gains_config(songs))
    scores = validator.scores({})
    expected = {}
    for name in ("long", "mono", "other rate"):
        parts = [soundfile.read(songs / "valid" / name / f"{part}.wav")[0] for part in ("vocals", "drums", "bass")]
        mixture = sum(parts)
        expected[name] = (sdr(parts[0], 0.5 * mixture), sdr(parts[1] + parts[2], 0.25 * mixture))
        if name != "other rate":  # there, what lies above the model's rate is lost
            assert tuple(scores.tracks[name].values()) == pytest.approx(expected[name], abs=1e-3)
    rows = np.array([list(row.values()) for row in scores.tracks.values()])
    assert list(scores.stems) == ["vocals", "accompaniment"]
    np.testing.assert_allclose(list(scores.stems.values()), rows.mean(axis=0))
    assert scores.mean == pytest.approx(rows.mean())


def test_the_loss_is_the_mean_error_of_segments_side_by_side_then_of_tracks(tmp_path, gains_config):
    """The network gives the mixture times a number, and the loss is the mean absolute error of each source, summed."""
    write_track(tmp_path / "train" / "a")
    # 10.4 segments of 1000 samples, of which 10 are looked at, and 0.4 of one, to which silence is added.
    for name, seconds in (("long", 1.3), ("short", 0.05)):
        write_track(tmp_path / "valid" / name, seed=len(name), seconds=seconds)
    scores = validator_of(gains_config(tmp_path)).scores({})
    expected = {}
    for name, segments in (("long", 10), ("short", 1)):
        vocals, drums, bass = (
            soundfile.read(tmp_path / "valid" / name / f"{part}.wav")[0][: 1000 * segments]
            for part in ("vocals", "drums", "bass")
        )
        errors = [vocals - 0.5 * (vocals + drums + bass), drums + bass - 0.25 * (vocals + drums + bass)]
        expected[name] = sum(np.abs(error).sum() for error in errors) / (1000 * segments * 2)
    assert scores.losses == pytest.approx(expected, rel=1e-5)
    assert scores.loss == pytest.approx((expected["long"] + expected["short"]) / 2, rel=1e-5)


def test_tracks_of_another_format_have_scores_and_no_loss(songs, gains_config):
    scores = validator_of(gains_config(songs)).scores({})
    assert list(scores.tracks) == ["long", "mono", "other rate"] and list(scores.losses) == ["long"]


def test_the_middle_of_tracks_is_validated_where_that_is_asked_for(tmp_path, gains_config):
    """Vocals alone in the middle second, the accompaniment alone around it."""
    inside = np.zeros((3 * RATE, 2), np.float32)
    inside[RATE : 2 * RATE] = noise(1, 0)
    outside = noise(3, 1)
    outside[RATE : 2 * RATE] = 0
    write_track(tmp_path / "train" / "a")
    write_track(tmp_path / "valid" / "b", vocals=inside, drums=outside, bass=0 * outside)
    config = gains_config(tmp_path, gains=(0.9, 0.0), validation={"seconds": 1.0})
    scores = validator_of(config).scores({})
    assert scores.stems["vocals"] == pytest.approx(20, abs=1e-3)  # a tenth is missing
    assert scores.stems["accompaniment"] == pytest.approx(0, abs=1e-9)  # silence for silence


def test_the_middle_of_a_track_is_never_longer_than_the_track():
    assert middle(1000, 10, None) == (0, 1000)
    assert middle(1000, 10, 20.0) == (400, 200)
    assert middle(1001, 10, 20.0) == (400, 200)
    assert middle(50, 10, 20.0) == (0, 50)
    assert middle(50, 10, 0.001) == (24, 1)


def test_a_mixture_of_its_own_is_what_is_separated(tmp_path, gains_config):
    write_track(tmp_path / "train" / "a")
    write_track(tmp_path / "valid" / "b", vocals=noise(1, 0), drums=noise(1, 1), bass=noise(1, 2))
    for name in ("train/a", "valid/b"):
        soundfile.write(tmp_path / name / "mixture.wav", 2 * noise(1, 0), RATE, subtype="FLOAT")
    data = {"root": str(tmp_path), "mixture": "file"}
    scores = validator_of(gains_config(tmp_path, gains=(0.45, 0.0), data=data)).scores({})
    assert scores.stems["vocals"] == pytest.approx(20, abs=1e-3)  # 0.45 times 2 is nine tenths


def test_what_belongs_to_no_stem_is_in_the_mixture_alone(tmp_path, gains_config):
    write_track(tmp_path / "train" / "a")
    write_track(tmp_path / "valid" / "b", vocals=noise(1, 0), drums=0 * noise(1, 0), bass=noise(1, 0))
    data = {"root": str(tmp_path), "stems": {"accompaniment": ["drums"]}}
    scores = validator_of(gains_config(tmp_path, gains=(0.45, 0.0), data=data)).scores({})
    assert scores.stems["vocals"] == pytest.approx(20, abs=1e-3)  # vocals and bass are the same: 0.45 times 2


def test_nothing_is_compiled_for_the_second_validation(songs):
    """By what JAX reports of itself, for variables that lie on all devices, as in training, and on the host."""
    compiled = []

    def note(event, seconds, **_):
        if "compile" in event:
            compiled.append(event)

    validator = validator_of(run_config(songs))
    first, second = drawn_variables(0), drawn_variables(1)
    mesh = jax.sharding.Mesh(jax.devices(), "device")
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        before = validator.scores(jax.device_put(first, replicated))
        assert compiled
        compiled.clear()
        after = validator.scores(jax.device_put(second, replicated))
        again = validator.scores(first)
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert again == before != after


def test_the_excerpt_is_the_middle_of_the_first_track(tmp_path, gains_config):
    write_track(tmp_path / "train" / "a")
    write_track(tmp_path / "valid" / "b", seconds=10)
    write_track(tmp_path / "valid" / "c")
    validator = validator_of(gains_config(tmp_path))
    validator.scores({})
    excerpt = validator.excerpt
    parts = [soundfile.read(tmp_path / "valid" / "b" / f"{part}.wav")[0] for part in ("vocals", "drums", "bass")]
    inside = slice(2 * RATE, 8 * RATE)
    assert (excerpt.track, excerpt.stems, excerpt.sample_rate) == ("b", ("vocals", "accompaniment"), RATE)
    np.testing.assert_allclose(excerpt.mixture, sum(parts)[inside], atol=1e-6)
    np.testing.assert_allclose(excerpt.sources, [parts[0][inside], (parts[1] + parts[2])[inside]], atol=1e-6)
    np.testing.assert_allclose(excerpt.estimates, [0.5 * excerpt.mixture, 0.25 * excerpt.mixture], atol=1e-6)


def test_estimates_that_are_not_finite_are_an_error_that_names_the_track(songs, gains_config):
    with pytest.raises(SeparationError, match=r"Track 'long' cannot be validated: .*not finite"):
        validator_of(gains_config(songs, gains=(0.5, float("inf")))).scores({})


def test_tracks_that_cannot_be_read_are_an_error_that_names_the_track(songs, gains_config):
    validator = validator_of(gains_config(songs))
    path = songs / "valid" / "mono" / "drums.wav"
    samples, rate = soundfile.read(path)
    samples[100] = np.nan
    soundfile.write(path, samples, rate, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"Track 'mono' cannot be validated: .*finite"):
        validator.scores({})


def test_as_many_tracks_are_validated_as_asked_for_and_none_is_an_error(songs, gains_config):
    config = gains_config(songs, validation={"tracks": 2})
    assert list(validator_of(config).scores({}).tracks) == ["long", "mono"]
    with pytest.raises(ConfigError, match="no tracks to validate on"):
        Validator(config, ())


def plateau(patience, decay_rate=0.5):
    return {"schedule": {"kind": "plateau", "patience": patience, "decay_rate": decay_rate}}


def scores_of(value):
    return Scores({"a track": {"vocals": value}}, {"a track": 1.0}, 0.0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4).map(float), max_size=40), st.integers(1, 4))
def test_the_learning_rate_falls_as_with_pytorchs_plateau(found, patience):
    config = run_config("/data", optimizer=plateau(patience))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    # PyTorch's patience is how many it forgives.
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=patience - 1, threshold=0, eps=0
    )
    validation = Validation()
    for step, value in enumerate(found):
        scheduler.step(value)
        validation, factor = validation.after(step, scores_of(value), config)
        assert factor == optimizer.param_groups[0]["lr"]
        assert validation.best_score == max(found[: step + 1])
        assert validation.best_step == int(np.argmax(found[: step + 1]))


def test_a_run_is_over_when_its_score_has_not_risen_for_as_long_as_it_may():
    config = run_config("/data", validation={"patience": 3})
    validation, over = Validation(), []
    for step, value in enumerate([1.0, 2.0, 1.5, 2.0, 2.1, 2.1, 2.0, 1.0]):
        validation, factor = validation.after(step, scores_of(value), config)
        over.append(validation.is_over(config.validation))
        assert factor == 1.0
    assert over == [False] * 7 + [True]
    assert (validation.best_step, validation.best_score) == (4, 2.1)
    assert not validation.is_over(ValidationConfig())


@settings(deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20), st.data())
def test_what_is_saved_goes_on_exactly(found, data):
    config = run_config("/data", optimizer=plateau(2, 0.3), validation={"patience": 5})
    stop = data.draw(st.integers(0, len(found)))
    straight = resumed = Validation()
    for step, value in enumerate(found):
        if step == stop:
            resumed = Validation.from_json(json.loads(json.dumps(resumed.to_json())))
        straight, factor = straight.after(step, scores_of(value), config)
        resumed, factor_resumed = resumed.after(step, scores_of(value), config)
        assert (resumed, factor_resumed) == (straight, factor)


def test_the_time_that_a_validation_took_makes_no_difference():
    assert replace(scores_of(1.0), seconds=3.0) == scores_of(1.0)
