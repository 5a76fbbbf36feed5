"""Separator: what a model that changes nothing gives back, at any rate and channels, and what happens on failure."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from separation.conftest import noise
from weights.small_models import small_spec, small_variables

from jaxsep.dsp.cuts import Chunking
from jaxsep.errors import AudioError, ConfigError, SeparationAborted, SeparationError
from jaxsep.models import FAMILIES
from jaxsep.separation.separator import Model, Separator


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.integers(1, 5000),
    chunk_length=st.integers(2, 900),
    overlap=st.floats(0, 0.99),
    batch_size=st.integers(1, 4),
)
def test_an_identity_model_returns_its_input_for_every_length_hop_and_batch_size(
    gains_model, length, chunk_length, overlap, batch_size
):
    chunk_hop = max(chunk_length - int(chunk_length * overlap), chunk_length // 20, 1)
    chunking = Chunking(chunk_length=chunk_length, chunk_hop=chunk_hop, window="crossfade")
    separator = Separator(gains_model((1.0, -0.5), chunking=chunking), batch_size=batch_size)
    mixture = noise(length)
    stems = separator.separate(mixture, 44100).stems
    np.testing.assert_allclose(stems["stem0"], mixture, atol=1e-6)
    np.testing.assert_allclose(stems["stem1"], -0.5 * mixture, atol=1e-6)


def test_stems_have_the_rate_channels_and_length_of_the_mixture(gains_model):
    separator = Separator(gains_model())
    for sample_rate, channels, length in [(48000, 1, 10_001), (22050, 2, 7_777), (96000, 1, 3), (8000, 2, 1)]:
        separation = separator.separate(noise(length, channels), sample_rate)
        assert separation.sample_rate == sample_rate
        assert {stem.shape for stem in separation.stems.values()} == {(length, channels)}


def test_mono_comes_back_as_it_was(gains_model):
    mixture = noise(3000, channels=1)
    stems = Separator(gains_model()).separate(mixture, 44100).stems
    np.testing.assert_allclose(stems["stem0"], mixture, atol=1e-6)


@pytest.mark.parametrize("model_channels", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 6])
def test_any_number_of_channels_goes_through_any_model(gains_model, channels, model_channels):
    mixture = noise(3000, channels=channels)
    stems = Separator(gains_model(channels=model_channels)).separate(mixture, 44100).stems
    np.testing.assert_allclose(stems["stem0"], mixture, atol=1e-6)
    np.testing.assert_allclose(stems["stem1"], -0.5 * mixture, atol=1e-6)


def test_a_tone_survives_the_way_to_the_models_rate_and_back(gains_model):
    time = np.arange(48000) / 48000
    tone = (0.5 * np.sin(2 * np.pi * 1000 * time))[:, None].astype(np.float32)
    stems = Separator(gains_model()).separate(tone, 48000).stems
    # soxr's HQ filter is good to 20 bits in the middle; at the ends it sees silence beyond them.
    assert np.abs(stems["stem0"] - tone)[2000:-2000].max() < 1e-5


def test_only_the_stems_asked_for_come_back_in_that_order(gains_model):
    separator = Separator(gains_model((1.0, 2.0, 3.0)), stems=["stem2", "stem0"])
    mixture = noise(100)
    stems = separator.separate(mixture, 44100).stems
    assert list(stems) == ["stem2", "stem0"]
    np.testing.assert_allclose(stems["stem2"], 3 * mixture, atol=1e-5)


def test_progress_counts_the_track_and_can_stop_it(gains_model):
    separator = Separator(gains_model())
    seen = []
    separator.separate(noise(4410), 44100, progress=seen.append)
    done = [progress.done_seconds for progress in seen]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(0.1)
    assert {progress.total_seconds for progress in seen} == {0.1}
    with pytest.raises(SeparationAborted):
        separator.separate(noise(4410), 44100, progress=lambda progress: progress.done_seconds < 0.05)
    # The next separation is not touched by the one that was stopped.
    assert len(separator.separate(noise(50), 44100).stems["stem0"]) == 50


def test_samples_that_are_not_finite_are_an_error_that_names_their_place(gains_model):
    separator = Separator(gains_model((1.0, 3e38)))
    mixture = np.zeros((44100, 2), np.float32)
    mixture[30_000] = 1000.0
    with pytest.raises(SeparationError, match=r"not finite between 0\.\d s and 0\.\d s"):
        separator.separate(mixture, 44100)


def test_a_chunk_that_fails_in_a_lower_precision_is_computed_again_in_float32(gains_model, caplog):
    # 1e5 is beyond float16, whose largest value is 65504.
    separator = Separator(gains_model((1.0, 1e5)), precision="float16")
    mixture = noise(3000)
    stems = separator.separate(mixture, 44100).stems
    np.testing.assert_allclose(stems["stem1"], 1e5 * mixture, rtol=1e-5, atol=0.1)
    assert "computing it in float32" in caplog.text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_mixtures_that_are_not_finite_are_refused(gains_model, bad):
    mixture = noise(100)
    mixture[50, 1] = bad
    with pytest.raises(AudioError, match="finite"):
        Separator(gains_model()).separate(mixture, 44100)


def test_mixtures_that_are_empty_are_refused(gains_model):
    with pytest.raises(AudioError, match="one sample or more"):
        Separator(gains_model()).separate(np.zeros((0, 2), np.float32), 44100)


@pytest.mark.parametrize("mixture", ["numpy.ones((10, 2), numpy.int16)", "numpy.ones(10, numpy.float32)"])
def test_integer_samples_and_other_shapes_are_refused_for_users_whose_annotations_nobody_checks(mixture):
    code = (
        "import jaxsep, numpy\n"
        "separator = jaxsep.Separator.from_pretrained('spleeter-2stems')\n"
        f"try: separator.separate({mixture}, 44100)\n"
        "except jaxsep.AudioError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("The mixture must be floating point (time, channel)")


@pytest.mark.parametrize("stems", [["stem9"], [], ["stem0", "stem0"]])
def test_stems_that_the_model_does_not_have_are_refused(gains_model, stems):
    with pytest.raises(ConfigError):
        Separator(gains_model(), stems=stems)


def test_one_shape_is_compiled_for_tracks_of_all_lengths(gains_model):
    separator = Separator(gains_model())
    for length in (10, 1000, 5000):
        separator.separate(noise(length), 44100)
    assert len(separator._runner._program._compiled) == 1


def test_a_separator_with_other_variables_gives_what_a_new_one_does_and_compiles_nothing():
    """By JAX's own count of compilations."""
    compiled = []

    def note(event, seconds, **_):
        if "compile" in event:
            compiled.append(event)

    spec = small_spec()
    module = FAMILIES[spec.family].module(spec.config)
    one, other = (small_variables(spec, seed) for seed in (0, 1))
    for variables in (one, other):
        # Of random numbers, what stands for a variance must not be negative.
        variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    mixture = noise(3000)
    separator = Separator(Model(module, one, spec, "0" * 64))
    before = separator.separate(mixture, spec.sample_rate).stems
    expected = Separator(Model(module, other, spec, "1" * 64)).separate(mixture, spec.sample_rate).stems
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        found = separator.with_variables(other).separate(mixture, spec.sample_rate).stems
        again = separator.separate(mixture, spec.sample_rate).stems
        assert not compiled
        Separator(Model(module, other, spec, "1" * 64)).separate(mixture, spec.sample_rate)
        assert compiled  # the count counts
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    for stem in spec.stems:
        np.testing.assert_array_equal(found[stem], expected[stem])
        np.testing.assert_array_equal(again[stem], before[stem])
        assert not np.array_equal(found[stem], before[stem])
    assert separator.with_variables(other).model.sha256 == ""
