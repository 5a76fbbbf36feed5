"""BSS Eval scores against museval itself, in its own environment and here, and against cases that can be worked out."""

import importlib
import importlib.util
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from parity.signals import SAMPLE_RATE, accompaniment, voice
from parity.spleeter_reference.load import excerpt, record

from jaxsep.errors import AudioError, ConfigError, JaxsepError
from jaxsep.metrics import museval_wrapper
from jaxsep.metrics.frame_scores import BssEvalScores
from jaxsep.metrics.museval_wrapper import museval_scores
from jaxsep.metrics.sdr import global_sdr

METRICS = ("sdr", "isr", "sir", "sar")

# SDR moves with the decoders' 2e-7 alone. The other three hang on a system of 2048 equations that a lossy codec's empty
# bands leave nearly singular, and which LAPACKs solve apart: 5e-4 dB seen.
TOLERANCE = {"sdr": 1e-4, "isr": 5e-3, "sir": 5e-3, "sar": 5e-3}


def impulses(offset: int, *, seconds: int = 3, amplitude: float = 1.0) -> np.ndarray:
    """Two impulses a second at 8192 Hz, 600 samples later on the right.

    Shifts by up to 511 samples, which is what BSS Eval's filters do, never bring two such trains with offsets 1200
    apart together: every projection is exact, and the scores are ratios of the amplitudes.
    """
    waveform = np.zeros((8192 * seconds, 2))
    waveform[offset::4096, 0] = amplitude
    waveform[offset + 600 :: 4096, 1] = amplitude
    return waveform


def test_scores_of_orthogonal_impulses_match_hand_computed_values():
    first, second, artefact = impulses(0), impulses(1200), impulses(2400)
    scores = museval_scores(
        {"first": first, "second": second},
        {"first": 0.5 * first + 0.1 * second + 0.05 * artefact, "second": second + 0.2 * artefact},
        sample_rate=8192,
    )
    decibels = {
        ("first", "sdr"): 10 * math.log10(1 / (0.5**2 + 0.1**2 + 0.05**2)),
        ("first", "isr"): 10 * math.log10(1 / 0.5**2),
        ("first", "sir"): 10 * math.log10(0.5**2 / 0.1**2),
        ("first", "sar"): 10 * math.log10((0.5**2 + 0.1**2) / 0.05**2),
        ("second", "sdr"): 10 * math.log10(1 / 0.2**2),
        ("second", "sar"): 10 * math.log10(1 / 0.2**2),
    }
    for (stem, metric), expected in decibels.items():
        frames = scores.frames(stem, metric)
        assert frames.shape == (3,)
        # museval adds an epsilon of 2e-16 to a matrix of ones and transforms 32768 samples in float64: 13 digits.
        np.testing.assert_allclose(frames, expected, atol=1e-9)
        assert scores.median(stem, metric) == pytest.approx(expected, abs=1e-9)
    # What is worked out above as nothing is rounding.
    assert np.all(scores.frames("second", "isr") > 200)
    assert np.all(scores.frames("second", "sir") > 200)


def test_scores_of_the_mixture_match_museval_in_its_own_environment():
    # Recorded by the museval package itself with numpy 1.24 and scipy 1.15 on ffmpeg's decode of the same file.
    tracks = excerpt()
    stems = ("vocals", "accompaniment")
    scores = museval_scores(
        {stem: tracks[stem] for stem in stems}, {stem: tracks["mixture"] for stem in stems}, sample_rate=SAMPLE_RATE
    )
    recorded = record()["signals"]["excerpt"]["museval"]["mixture"]
    for metric in METRICS:
        for stem in stems:
            expected = recorded[metric][stem]
            assert len(expected["frames"]) == 6
            np.testing.assert_allclose(scores.frames(stem, metric), expected["frames"], atol=TOLERANCE[metric])
            assert scores.median(stem, metric) == pytest.approx(expected["median"], abs=TOLERANCE[metric])


def test_scores_equal_museval_evaluate_bit_for_bit():
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        pytest.skip("museval's package cannot be imported without the programs ffmpeg and ffprobe")
    museval = importlib.import_module("museval")
    references = {"vocals": voice(3 * SAMPLE_RATE), "accompaniment": accompaniment(3 * SAMPLE_RATE)}
    estimates = {
        "accompaniment": 0.9 * references["accompaniment"] + 0.1 * references["vocals"],
        "vocals": references["vocals"] + 0.2 * references["accompaniment"][:, ::-1],
    }
    scores = museval_scores(references, estimates, sample_rate=SAMPLE_RATE, window_seconds=1.5, hop_seconds=0.5)
    stems = ("vocals", "accompaniment")
    assert scores.stems == stems  # the references' order, whatever that of the estimates
    expected = museval.evaluate(
        np.stack([references[stem] for stem in stems]),
        np.stack([estimates[stem] for stem in stems]),
        win=int(1.5 * SAMPLE_RATE),
        hop=int(0.5 * SAMPLE_RATE),
    )
    for metric, frames in zip(METRICS, expected, strict=True):
        assert frames.shape == (2, 4)
        np.testing.assert_array_equal(getattr(scores, metric), frames)


def test_sdr_of_a_frame_is_the_plain_ratio_of_global_sdr():
    references = {"vocals": voice(2 * SAMPLE_RATE), "accompaniment": accompaniment(2 * SAMPLE_RATE)}
    mixture = references["vocals"] + references["accompaniment"]
    scores = museval_scores(references, dict.fromkeys(references, mixture), sample_rate=SAMPLE_RATE)
    for stem, reference in references.items():
        seconds = [slice(start, start + SAMPLE_RATE) for start in (0, SAMPLE_RATE)]
        expected = [float(global_sdr(reference[second], mixture[second], eps=0.0)) for second in seconds]
        # The three error terms that museval adds up again cancel to some 1e-12 of the largest.
        np.testing.assert_allclose(scores.frames(stem), expected, atol=1e-6)


def test_a_frame_in_which_any_stem_is_silent_counts_for_none():
    first, second = impulses(0, seconds=4), impulses(1200, seconds=4)
    second[8192 : 2 * 8192] = 0.0
    scores = museval_scores(
        {"first": first, "second": second},
        {"first": 0.5 * first + 0.1 * second, "second": 0.9 * second + 0.01 * first},
        sample_rate=8192,
    )
    for stem in scores.stems:
        for metric in METRICS:
            np.testing.assert_array_equal(np.isnan(scores.frames(stem, metric)), [False, True, False, False])
    assert scores.median("second") == pytest.approx(10 * math.log10(1 / (0.1**2 + 0.01**2)), abs=1e-9)


def test_median_leaves_out_nan_and_infinite_frames_as_musevals_tables_do():
    frames = np.array([[1.0, np.nan, 3.0, np.inf, 7.0, -np.inf], [np.nan, np.nan, np.inf, np.nan, np.nan, np.nan]])
    scores = BssEvalScores(("a", "b"), frames, frames + 1, frames + 2, frames + 3, 1.0, 1.0)
    assert [scores.median("a", metric) for metric in METRICS] == [3.0, 4.0, 5.0, 6.0]
    assert math.isnan(scores.median("b"))
    assert scores.medians()["a"] == {"sdr": 3.0, "isr": 4.0, "sir": 5.0, "sar": 6.0}
    with pytest.raises(ConfigError, match=r"no scores of a stem 'c'"):
        scores.median("c")
    with pytest.raises(ConfigError, match="no metric 'SDR'"):
        scores.median("a", "SDR")


def test_a_track_shorter_than_a_frame_is_one_frame_and_the_rest_of_a_track_is_dropped():
    first, second = impulses(0), impulses(1200)
    pair = {"first": first, "second": second}
    halves = {stem: 0.5 * waveform for stem, waveform in pair.items()}
    long = museval_scores(pair, halves, sample_rate=8192, window_seconds=10.0, hop_seconds=10.0)
    assert long.sdr.shape == (2, 1)
    assert museval_scores(pair, halves, sample_rate=8192, window_seconds=2.0, hop_seconds=2.0).sdr.shape == (2, 1)
    assert museval_scores(pair, halves, sample_rate=8192, window_seconds=2.0, hop_seconds=0.5).sdr.shape == (2, 3)


def test_a_singular_system_is_solved_and_not_fatal():
    # Equal channels of integers leave two equal rows, to the last bit: museval's own handler of that names an attribute
    # that numpy 2.4 has dropped. The least-squares answer for half the reference is half the reference.
    mono = impulses(0, amplitude=4.0)[:, :1].repeat(2, axis=1)
    scores = museval_scores({"a": mono}, {"a": 0.5 * mono}, sample_rate=8192)
    # Least squares by singular values keeps 12 digits.
    np.testing.assert_allclose(scores.sdr, 20 * math.log10(2), atol=1e-9)
    np.testing.assert_allclose(scores.isr, 20 * math.log10(2), atol=1e-9)


@pytest.mark.parametrize("silent", ["reference", "estimate"])
def test_a_silent_stem_is_an_error_that_names_it(silent: str):
    references = {"vocals": impulses(0), "drums": impulses(1200)}
    estimates = dict(references)
    {"reference": references, "estimate": estimates}[silent]["drums"] = np.zeros_like(impulses(0))
    with pytest.raises(AudioError, match=f"the {silent} of stem 'drums' is silent throughout"):
        museval_scores(references, estimates, sample_rate=8192)


def test_channels_that_cancel_are_the_silence_that_museval_takes_them_for():
    side = impulses(0)[:, :1] * np.array([1.0, -1.0])
    with pytest.raises(AudioError, match="its channels cancel each other"):
        museval_scores({"side": side, "b": impulses(1200)}, {"side": side, "b": impulses(1200)}, sample_rate=8192)


def test_scores_refuse_what_cannot_be_compared():
    good = impulses(0)
    with pytest.raises(ConfigError, match=r"\['a'\].*\['b'\]"):
        museval_scores({"b": good}, {"a": good}, sample_rate=8192)
    with pytest.raises(ConfigError, match="at least one"):
        museval_scores({}, {}, sample_rate=8192)
    with pytest.raises(ConfigError, match="a hop of 0 samples"):
        museval_scores({"a": good}, {"a": good}, sample_rate=8192, hop_seconds=1e-5)
    with pytest.raises(AudioError, match=r"stem 'a': .*cut or pad"):
        museval_scores({"a": good}, {"a": good[:-1]}, sample_rate=8192)
    with pytest.raises(AudioError, match=r"different shapes .*\(8192, 2\)"):
        museval_scores({"a": good, "b": good[:8192]}, {"a": good, "b": good[:8192]}, sample_rate=8192)
    with pytest.raises(AudioError, match="stem 'a': the estimates hold values that are not finite"):
        museval_scores({"a": good}, {"a": np.where(good == 1, np.nan, good)}, sample_rate=8192)
    with pytest.raises(AudioError, match=r"the reference of stem 'a' has the shape \(1, 24576, 2\)"):
        museval_scores({"a": good[None]}, {"a": good[None]}, sample_rate=8192)


def test_museval_that_is_not_installed_is_a_plain_error(monkeypatch: pytest.MonkeyPatch):
    museval_wrapper._load_museval_metrics.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(JaxsepError, match=r"pip install 'jaxsep\[evaluate\]'"):
        museval_scores({"a": impulses(0)}, {"a": impulses(0)}, sample_rate=8192)


def test_scores_need_neither_ffmpeg_nor_musevals_package():
    program = """
import sys
import numpy as np
from jaxsep.metrics.museval_wrapper import museval_scores
noise = np.random.default_rng(0).normal(size=(4000, 1))
scores = museval_scores({"a": noise}, {"a": 0.9 * noise}, sample_rate=4000)
assert abs(scores.median("a") - 20) < 1e-6, scores
print(sorted({"museval", "musdb", "stempeg", "jax"} & set(sys.modules)))
"""
    environment = {**os.environ, "PATH": ""}
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, timeout=60
    ).stdout
    assert output.strip() in ("[]", "['jax']")  # jaxtyping or a later jaxsep may load jax; nothing loads the others
