"""Whole separations against Spleeter 2.4.2 on TensorFlow, from waveform to waveform, and the scores on real music.

The reference's own precision is stated in spleeter_reference/load.py: some -100 dB of the mixture with masks, since
TensorFlow's FFT is no better, and `WIENER_FLOOR_DB` with the Wiener filter, whose covariances are nearly singular.
"""

import jax
import numpy as np
import pytest
from parity.spleeter_reference.load import WIENER_FLOOR_DB, excerpt, record, reference

from jaxsep.metrics.museval_wrapper import museval_scores
from jaxsep.separation.separator import Separator

SAMPLE_RATE = 44100
SIGNALS = ("short_song", "long_song", "one_segment", "one_sample_more", "mono_song", "shorter_than_a_frame", "excerpt")


@pytest.fixture(scope="module")
def separators(full_precision_model, bundled_model):
    """One Separator for each precision of the weights and each mode, so that each is compiled once."""
    with jax.default_matmul_precision("highest"):
        yield {
            (weights, mode): Separator(model, filter="wiener" if mode == "wiener" else "auto")
            for weights, model in (("float32", full_precision_model), ("float16", bundled_model))
            for mode in ("masks", "wiener")
        }


def separate(separator, mixture):
    # Spleeter copies a mono mixture to both channels and gives stereo stems.
    stereo = np.repeat(mixture, 2, axis=1) if mixture.shape[1] == 1 else mixture
    return separator.separate(stereo, SAMPLE_RATE).stems


@pytest.mark.parametrize("signal", SIGNALS)
def test_masked_stems_match_spleeter_to_90_db_below_the_mixture(separators, signal):
    expected = reference(signal, "masks")
    difference = expected.difference_db(separate(separators["float32", "masks"], expected.mixture))
    # Two float32 networks and transforms in different orders of summation; TensorFlow's own transform is good to -100
    # dB.
    assert max(difference.values()) < -90, difference


@pytest.mark.parametrize("signal", SIGNALS)
def test_filtered_stems_match_spleeter_as_far_as_its_filter_is_determined(separators, signal):
    expected = reference(signal, "wiener")
    difference = expected.difference_db(separate(separators["float32", "wiener"], expected.mixture))
    # The reference's rounding alone is WIENER_FLOOR_DB; 3 dB are added by ours, independent of it and of the same size.
    assert max(difference.values()) < WIENER_FLOOR_DB[signal] + 3, difference
    if signal == "excerpt":
        assert max(difference.values()) < -65, difference


@pytest.mark.parametrize("mode", ["masks", "wiener"])
def test_bundled_float16_weights_match_spleeter_to_55_db_on_real_music(separators, mode):
    expected = reference("excerpt", mode)
    difference = expected.difference_db(separate(separators["float16", mode], expected.mixture))
    # Rounding the weights to 11 bits is heard, if at all, this far below the mixture.
    assert max(difference.values()) < -55, difference


def test_levels_of_every_second_match_spleeter(separators):
    expected = reference("excerpt", "masks")
    stems = separate(separators["float32", "masks"], expected.mixture)
    for stem, levels in expected.rms_per_second.items():
        seconds = [stems[stem][start : start + SAMPLE_RATE] for start in range(0, len(expected.mixture), SAMPLE_RATE)]
        ours = np.array([np.sqrt(np.mean(np.square(second, dtype=np.float64), axis=0)) for second in seconds])
        np.testing.assert_allclose(ours, levels, rtol=1e-4)
        assert np.abs(stems[stem]).max() == pytest.approx(expected.peak[stem], rel=1e-4)


def test_silence_gives_silence(separators):
    for mode in ("masks", "wiener"):
        expected = reference("silence", mode)
        stems = separate(separators["float32", mode], expected.mixture)
        assert all((stem == 0).all() for stem in stems.values())


@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("mode", ["masks", "wiener"])
def test_scores_on_real_music_are_those_of_spleeter(separators, weights, mode):
    tracks = excerpt()
    stems = separate(separators[weights, mode], tracks["mixture"])
    references = {stem: tracks[stem] for stem in stems}
    scores = museval_scores(references, stems, sample_rate=SAMPLE_RATE)
    published = record()["signals"]["excerpt"]["museval"][mode]["sdr"]
    for stem in stems:
        assert scores.median(stem) == pytest.approx(published[stem]["median"], abs=0.02)
