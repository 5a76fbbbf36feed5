"""Metrics of whole tracks against what their published code gave for the same signals: see published_scores/."""

import json
from pathlib import Path

import numpy as np
import pytest
from metrics.published_scores.signals import signals

from jaxsep.errors import AudioError
from jaxsep.metrics import bleedless_and_fullness, log_wmse, si_sdr, si_sir_and_sar, spectral_distance

SCORES = json.loads((Path(__file__).parent / "published_scores" / "scores.json").read_text())
SOURCES, MIXTURE, KINDS = signals()
STEMS = list(SOURCES)
CASES = [(kind, stem) for kind in KINDS for stem in STEMS]


def stacked(by_stem):
    return np.stack([by_stem[stem] for stem in STEMS])


@pytest.mark.parametrize("kind", KINDS)
def test_si_sir_and_si_sar_are_those_of_the_authors_code(kind):
    """nussl's scale_bss_eval, which is Wichern's and Le Roux's; float64 on both sides."""
    sir, sar = si_sir_and_sar(stacked(SOURCES), stacked(KINDS[kind]))
    np.testing.assert_allclose(sir, [SCORES[kind][stem]["si-sir"] for stem in STEMS], atol=1e-6)
    expected = np.array([SCORES[kind][stem]["si-sar"] for stem in STEMS])
    # What lies in the span of the sources has no artefacts: beyond 120 dB both are rounding, of float32 files at best.
    np.testing.assert_allclose(np.minimum(sar, 120), np.minimum(expected, 120), atol=1e-3)


@pytest.mark.parametrize(("kind", "stem"), CASES)
def test_log_wmse_is_that_of_torch_log_wmse(kind, stem):
    found = log_wmse(SOURCES[stem], KINDS[kind][stem], MIXTURE, sample_rate=44100)
    expected = SCORES[kind][stem]
    # Ours has the response of the filter's design, theirs that of 4000 samples of it.
    assert float(found) == pytest.approx(expected["log-wmse"], abs=5e-3)
    # The first publication filters in the window of the track alone, and hears no error 68 dB below full scale.
    assert float(found) == pytest.approx(expected["log-wmse by its first publication"], abs=5e-2)
    elsewhere = log_wmse(SOURCES[stem], KINDS[kind][stem], MIXTURE, sample_rate=16000)
    assert float(elsewhere) == pytest.approx(expected["log-wmse by its first publication at 16 kHz"], abs=5e-2)


@pytest.mark.parametrize(("kind", "stem"), CASES)
def test_the_spectral_distance_is_that_of_auraloss(kind, stem):
    # theirs is in float32
    assert spectral_distance(SOURCES[stem], KINDS[kind][stem]) == pytest.approx(
        SCORES[kind][stem]["spectral-distance"], rel=1e-4
    )


@pytest.mark.parametrize(("kind", "stem"), CASES)
def test_bleedless_and_fullness_are_those_of_msst(kind, stem):
    bleedless, fullness = bleedless_and_fullness(SOURCES[stem], KINDS[kind][stem], sample_rate=44100)
    # float32 on both sides, by other transforms
    assert bleedless == pytest.approx(SCORES[kind][stem]["bleedless"], rel=1e-3)
    assert fullness == pytest.approx(SCORES[kind][stem]["fullness"], rel=1e-3)


def test_exact_and_silent_estimates_are_at_the_ends_of_the_scales():
    source = SOURCES["vocals"]
    assert bleedless_and_fullness(source, source, sample_rate=44100) == (100.0, 100.0)
    assert spectral_distance(source, source) == 0.0
    assert float(log_wmse(source, source, MIXTURE, sample_rate=44100)) == pytest.approx(-4 * np.log(1e-8))
    # logWMSE is the one that scores a silent source.
    silence = np.zeros_like(source)
    assert np.isfinite(float(log_wmse(silence, source, MIXTURE, sample_rate=44100)))
    sir, sar = si_sir_and_sar(stacked(SOURCES), np.stack([silence, SOURCES["drums"], SOURCES["other"]]))
    assert np.isnan([sir[0], sar[0]]).all() and np.isinf([*sir[1:], *sar[1:]]).all()


def test_a_silent_source_among_others_changes_nothing_for_them():
    three, estimates = stacked(SOURCES), stacked(KINDS["noisy"])
    four, more = (np.concatenate([each, np.zeros_like(each[:1])]) for each in (three, estimates))
    for found, expected in zip(si_sir_and_sar(four, more), si_sir_and_sar(three, estimates), strict=True):
        np.testing.assert_allclose(found[:3], expected, rtol=1e-9)
        assert np.isnan(found[3])


def test_interference_and_artefacts_add_up_to_the_distortion():
    references, estimates = stacked(SOURCES), stacked(KINDS["noisy"])
    sir, sar = si_sir_and_sar(references, estimates)
    both = 10 ** (-sir / 10) + 10 ** (-sar / 10)
    np.testing.assert_allclose(-10 * np.log10(both), si_sdr(references, estimates), atol=1e-6)


def test_what_has_no_score_is_refused():
    with pytest.raises(AudioError, match="not defined for 1024 samples: give more than 1024"):
        spectral_distance(np.ones((1024, 1)), np.ones((1024, 1)))
    with pytest.raises(AudioError, match=r"the mixture has the shape \(9, 2\)"):
        log_wmse(np.ones((10, 2)), np.ones((10, 2)), np.ones((9, 2)), sample_rate=44100)
