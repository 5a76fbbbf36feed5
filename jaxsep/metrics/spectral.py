"""Scores of magnitudes: the multi-resolution spectral distance, and msst's bleedless and fullness. numpy alone.

Frames are transformed block by block, so that what is in memory beside the waveforms is small.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxsep.errors import AudioError
from jaxsep.metrics.sdr import as_pair

# auraloss.freq.MultiResolutionSTFTLoss: lengths of transforms, hops and windows in samples; the floor of a power.
_RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
_POWER_FLOOR = 1e-8
# utils/metrics.py of Music-Source-Separation-Training.
_BLEED_FFT, _BLEED_HOP, _MELS = 4096, 1024, 512
_SMALLEST_MAGNITUDE, _RANGE_DB = 1e-10, 80.0
# Frames whose spectra are in memory at one time.
_BLOCK = 512

Track = Float[np.ndarray, "time channel"]


def spectral_distance(reference: Track, estimate: Track) -> float:
    """Multi-resolution STFT distance (Yamamoto et al., ICASSP 2020), as auraloss computes it by default; 0 is best.

    The mean over three resolutions of spectral convergence and the mean absolute difference of log magnitudes. It
    depends on the sample rate, since its frames have lengths in samples.

    Args:
        reference: A true source of more than 1024 samples.
        estimate: What a separation gave, of the same shape.

    Raises:
        AudioError: The shapes differ, the track is shorter, or a value is not finite.
    """
    true, estimated = as_pair(reference, estimate)
    shortest = max(n_fft for n_fft, _, _ in _RESOLUTIONS) // 2
    if len(true) <= shortest:
        raise AudioError(f"the spectral distance is not defined for {len(true)} samples: give more than {shortest}")
    total = 0.0
    for n_fft, hop, window in _RESOLUTIONS:
        difference = energy = logarithms = 0.0
        count = 0
        for both in zip(*(_power(each, n_fft, hop, window, mode="reflect") for each in (true, estimated)), strict=True):
            one, other = (np.sqrt(np.maximum(power, _POWER_FLOOR)) for power in both)
            difference += float(np.sum(np.square(one - other)))
            energy += float(np.sum(np.square(one)))
            logarithms += float(np.sum(np.abs(np.log(one) - np.log(other))))
            count += one.size
        total += float(np.sqrt(difference / energy)) + logarithms / count
    return total / len(_RESOLUTIONS)


def bleedless_and_fullness(reference: Track, estimate: Track, *, sample_rate: int) -> tuple[float, float]:
    """Scores what an estimate has too much and too little of, as msst does; each score is 100 at best.

    Levels in dB of 512 mel bands, none more than 80 dB below the loudest, are compared bin by bin: bleedless is
    100 / (1 + the mean of the differences above zero), fullness 100 / (1 - the mean of those below).

    Args:
        reference: A true source.
        estimate: What a separation gave, of the same shape.
        sample_rate: Sample rate of both in Hz. msst itself takes all tracks for such of 44.1 kHz.

    Raises:
        AudioError: The shapes differ, nothing is there to score, or a value is not finite.
    """
    pair = [waveform.astype(np.float32) for waveform in as_pair(reference, estimate)]
    bank = _mel_bank(sample_rate)
    floors = [max(float(block.max()) for block in _mel_levels(each, bank)) - _RANGE_DB for each in pair]
    above, below = np.zeros(2), np.zeros(2)  # sum and number
    for both in zip(*(_mel_levels(each, bank) for each in pair), strict=True):
        true, estimated = (np.maximum(levels, floor) for levels, floor in zip(both, floors, strict=True))
        difference = estimated - true
        for side, chosen in ((above, difference > 0), (below, difference < 0)):
            side += np.array([np.sum(difference[chosen], dtype=np.float64), np.count_nonzero(chosen)])
    excess, lack = (side[0] / side[1] if side[1] else 0.0 for side in (above, below))
    return float(100 / (1 + excess)), float(100 / (1 - lack))


def _power(
    waveform: Track, n_fft: int, hop: int, window_length: int, *, mode: Literal["reflect", "constant"]
) -> Iterator[Float[np.ndarray, "frame freq channel"]]:
    """Yields blocks of power spectra of centred frames with periodic Hann windows, as torch.stft's."""
    window = np.zeros(n_fft, waveform.dtype)
    start = (n_fft - window_length) // 2
    window[start : start + window_length] = np.hanning(window_length + 1)[:-1]
    padded = np.pad(waveform, [(n_fft // 2, n_fft // 2), (0, 0)], mode=mode)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=0)[::hop]
    for first in range(0, len(frames), _BLOCK):
        spectra = np.fft.rfft(frames[first : first + _BLOCK] * window, axis=2)
        yield (np.square(spectra.real) + np.square(spectra.imag)).swapaxes(1, 2)


def _mel_levels(
    waveform: Track, bank: Float[np.ndarray, "band freq"]
) -> Iterator[Float[np.ndarray, "frame band channel"]]:
    for power in _power(waveform, _BLEED_FFT, _BLEED_HOP, _BLEED_FFT, mode="constant"):
        magnitudes = np.matmul(bank, np.sqrt(power))
        yield 20 * np.log10(np.maximum(magnitudes, np.float32(_SMALLEST_MAGNITUDE)))


def _mel_bank(sample_rate: int) -> Float[np.ndarray, "band freq"]:
    """Triangles of unit area on Slaney's scale (Auditory Toolbox, 1998) from 0 Hz to half the rate, as librosa's."""
    edges = _from_mel(np.linspace(0.0, _to_mel(sample_rate / 2), _MELS + 2))
    bins = np.fft.rfftfreq(_BLEED_FFT, 1 / sample_rate)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    area = 2 / (edges[2:] - edges[:-2])
    return (np.maximum(np.minimum(rising, falling), 0.0) * area[:, None]).astype(np.float32)


# Linear up to 1 kHz, 200/3 Hz a mel, and logarithmic above, 27 mels for a factor of 6.4.
_HZ_PER_MEL, _BREAK_MEL, _LOG_STEP = 200 / 3, 15.0, np.log(6.4) / 27


def _to_mel(hertz: float) -> float:
    linear = hertz / _HZ_PER_MEL
    return linear if linear < _BREAK_MEL else float(_BREAK_MEL + np.log(linear / _BREAK_MEL) / _LOG_STEP)


def _from_mel(mels: Float[np.ndarray, " edge"]) -> Float[np.ndarray, " edge"]:
    above = _BREAK_MEL * np.exp(_LOG_STEP * (np.maximum(mels, _BREAK_MEL) - _BREAK_MEL))
    return _HZ_PER_MEL * np.where(mels < _BREAK_MEL, mels, above)
