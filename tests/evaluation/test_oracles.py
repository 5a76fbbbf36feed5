"""SiSEC 2018's oracles against its own code, sigsep-mus-oracle, written out here on scipy's STFT."""

import numpy as np
import scipy.signal

from jaxsep.evaluation.baselines import SISEC, ideal_binary_mask, ideal_ratio_mask, oracle_wiener_filter

# Away from the ends both invert the same transform of the same masks, in float64: scipy pads there by half a frame and
# ours by a hop, which is the same.
ROUNDING = 1e-9


def sources(length: int = 30_000) -> np.ndarray:
    """Three coloured noises in stereo, with stretches in which some are silent."""
    rng = np.random.default_rng(0)
    made = rng.normal(size=(3, length, 2))
    for number, source in enumerate(made):
        source[:] = scipy.signal.lfilter([1.0], [1.0, -0.8 + 0.7 * number], source, axis=0)
        source[:, 1] = 0.2 * (number + 1) * source[:, 0] + 0.3 * source[:, 1]
    made[1, 8000:14_000] = 0.0
    return made


def stft(waveform: np.ndarray) -> np.ndarray:
    return scipy.signal.stft(waveform.T, nperseg=2048)[-1]  # (channel, freq, frame)


def istft(spectrum: np.ndarray, length: int) -> np.ndarray:
    return scipy.signal.istft(spectrum)[1].T[:length]


def theirs_mwf(mixture: np.ndarray, parts: np.ndarray) -> np.ndarray:
    eps = np.finfo(np.float64).eps
    x = np.moveaxis(stft(mixture), 0, 2)
    channels = x.shape[2]
    powers, covariances, model = [], [], 0
    for part in parts:
        y = np.moveaxis(stft(part), 0, 2)  # (freq, frame, channel)
        observed = y[..., :, None] * y[..., None, :].conj()
        power = np.mean(np.abs(y) ** 2, axis=2)
        spatial = np.mean(observed / (eps + power[..., None, None]), axis=1)
        trace = np.trace(spatial, axis1=1, axis2=2)
        spatial = spatial * (channels / trace)[:, None, None] + 1e-4 * np.eye(channels)
        inverse = np.linalg.inv(spatial)
        power = np.real(np.einsum("fij,fnji->fn", inverse, observed)) / channels
        powers.append(power)
        covariances.append(spatial)
        model = model + power[..., None, None] * spatial[:, None]
    inverse = np.linalg.inv(model + eps * np.eye(channels))
    return np.stack(
        [
            istft(
                np.moveaxis(np.einsum("fnij,fnjk,fnk->fni", p[..., None, None] * r[:, None], inverse, x), 2, 0),
                len(mixture),
            )
            for p, r in zip(powers, covariances, strict=True)
        ]
    )


def test_the_oracle_wiener_filter_matches_that_of_sisec():
    parts = sources()
    mixture = parts.sum(axis=0)
    ours, theirs = oracle_wiener_filter(mixture, parts, SISEC), theirs_mwf(mixture, parts)
    inside = slice(2048, -2048)
    error = np.abs(ours - theirs)[:, inside].max() / np.abs(theirs).max()
    assert error < ROUNDING, error
    # What the filter gives adds up to the mixture, but for the regularisation.
    np.testing.assert_allclose(ours.sum(axis=0), mixture, atol=1e-6 * np.abs(mixture).max())


def test_the_ideal_binary_mask_matches_that_of_sisec():
    parts = sources()
    mixture = parts.sum(axis=0)
    x = stft(mixture)
    for number, part in enumerate(parts):
        share = np.abs(stft(part)) / (np.finfo(np.float64).eps + np.abs(x))
        theirs = istft(np.where(share >= 0.5, x, 0), len(mixture))
        ours = ideal_binary_mask(mixture, parts, SISEC)[number]
        np.testing.assert_allclose(ours[2048:-2048], theirs[2048:-2048], atol=ROUNDING)


def test_the_ideal_ratio_masks_match_those_of_sisec():
    parts = sources()
    mixture = parts.sum(axis=0)
    for exponent in (1.0, 2.0):
        total = np.finfo(np.float64).eps + sum(np.abs(stft(part)) ** exponent for part in parts)
        ours = ideal_ratio_mask(mixture, parts, SISEC, exponent=exponent)
        for number, part in enumerate(parts):
            theirs = istft(np.abs(stft(part)) ** exponent / total * stft(mixture), len(mixture))
            np.testing.assert_allclose(ours[number][2048:-2048], theirs[2048:-2048], atol=ROUNDING)


def test_sources_in_one_place_each_are_separated_by_place():
    """Left and right alone: the covariances tell them apart, whatever the spectra; 1e-4 of each leaks."""
    rng = np.random.default_rng(1)
    left, right = np.zeros((2, 20_000, 2))
    left[:, 0], right[:, 1] = rng.normal(size=(2, 20_000))
    ours = oracle_wiener_filter(left + right, np.stack([left, right]), SISEC)
    np.testing.assert_allclose(ours, np.stack([left, right]), atol=1e-2)


def test_silence_stays_silence():
    for oracle in (ideal_binary_mask, oracle_wiener_filter):
        assert not np.any(oracle(np.zeros((5000, 2)), np.zeros((2, 5000, 2)), SISEC))
