"""Synthetic music for parity tests: formulas in, float32 waveforms out, the same bits everywhere. numpy and no files.

Every part is rounded to a grid of 2^-15, so that the last bits of `sin` and `exp`, in which builds of numpy differ,
do not reach the result, sums of parts are exact, and a 16-bit file holds a signal without loss. The hashes beside the
reference numbers (`spleeter_reference/reference.json`) guard this.
"""

import functools

import numpy as np

SAMPLE_RATE = 44100
GRID = 2.0**-15

# Length of the longest track that the published Spleeter separates in one segment of 512 frames: 4096 zeros in front,
# hop 1024.
ONE_SEGMENT = 512 * 1024 - 4096


def noise(count: int, *, stream: int) -> np.ndarray:
    """Returns white noise in [-1, 1), float64 (time,): SplitMix64 (Steele et al. 2014) of the sample's number.

    Args:
        count: Number of samples.
        stream: Which noise; different streams are unrelated.
    """
    state = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream << 32)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0


def voice(count: int) -> np.ndarray:
    """Returns a sung melody, float64 (time, 2), in the centre.

    Syllables of harmonics with vibrato under three formants, each begun by a consonant of noise.
    """
    melody_hz = (220.0, 246.9, 261.6, 329.6, 293.7, 261.6, 392.0, 349.2)
    formants_hz = ((730.0, 1090.0, 2440.0), (390.0, 1990.0, 2550.0), (570.0, 840.0, 2410.0), (300.0, 870.0, 2240.0))
    time = np.arange(count) / SAMPLE_RATE
    hiss = noise(count, stream=1)
    sung = np.zeros(count)
    syllable_seconds, sounding_seconds = 0.42, 0.36
    for number in range(int(np.ceil(count / SAMPLE_RATE / syllable_seconds))):
        if number % 8 == 7:  # a breath
            continue
        start = int(number * syllable_seconds * SAMPLE_RATE)
        stop = min(count, start + int(sounding_seconds * SAMPLE_RATE))
        local = time[start:stop] - time[start]
        pitch_hz = melody_hz[number % len(melody_hz)]
        cycles = pitch_hz * (local - 0.012 * np.cos(2 * np.pi * 5.5 * local) / (2 * np.pi * 5.5))
        tone = np.zeros_like(local)
        for harmonic in range(1, int(9000.0 / pitch_hz)):
            peaks = [
                1.0 / (1.0 + ((harmonic * pitch_hz - centre) / (90.0 + 0.06 * centre)) ** 2)
                for centre in formants_hz[number % 4]
            ]
            tone += (sum(peaks) + 0.02) / harmonic**0.5 * np.sin(2 * np.pi * harmonic * cycles)
        envelope = np.minimum(1.0, local / 0.03) * np.minimum(1.0, (sounding_seconds - local) / 0.08)
        sung[start:stop] += 0.16 * envelope * tone + 0.06 * np.exp(-local / 0.012) * hiss[start:stop]
    return _on_the_grid(np.stack([sung, sung], axis=1))


def accompaniment(count: int) -> np.ndarray:
    """Returns a band, float64 (time, 2): bass in the centre, plucked chords left and right, kick, snare and hi-hat."""
    time = np.arange(count) / SAMPLE_RATE
    band = np.zeros((count, 2))
    snare, hat = noise(count, stream=2), noise(count, stream=3)
    hat = hat - np.concatenate([[0.0], hat[:-1]])
    chords_hz = (
        (110.0, 220.0, 277.2, 329.6),
        (98.0, 196.0, 246.9, 293.7),
        (87.3, 174.6, 220.0, 261.6),
        (82.4, 164.8, 207.7, 246.9),
    )
    beat_seconds = 0.5
    for beat in range(int(np.ceil(count / SAMPLE_RATE / beat_seconds))):
        start = int(beat * beat_seconds * SAMPLE_RATE)
        local = time[start:] - time[start]
        local = local[: int(1.5 * beat_seconds * SAMPLE_RATE)]
        part = band[start : start + len(local)]
        release = np.clip((1.5 * beat_seconds - local) / 0.1, 0.0, 1.0)
        bass_hz, *strings_hz = chords_hz[(beat // 4) % 4]
        for harmonic in range(1, 12):
            part += _panned(
                0.12
                / harmonic
                * np.exp(-local * (2 + harmonic))
                * release
                * np.sin(2 * np.pi * harmonic * bass_hz * local),
                0.5,
            )
        for string, pitch_hz in enumerate(strings_hz):
            for harmonic in range(1, 16):
                decay = np.exp(-local * (1.5 + 0.6 * harmonic)) * release
                stretched_hz = harmonic * pitch_hz * np.sqrt(1 + 2e-4 * harmonic**2)  # a stiff string
                part += _panned(
                    0.07 / harmonic * decay * np.sin(2 * np.pi * stretched_hz * local), 0.15 + 0.35 * string
                )
        drum = 0.3 * np.exp(-local / 0.09) * np.sin(2 * np.pi * (48.0 * local + 6.0 * (1 - np.exp(-local / 0.03))))
        if beat % 2:
            drum = 0.18 * np.exp(-local / 0.06) * snare[start : start + len(local)] * release
        part += _panned(drum, 0.5)
        for eighth in (0, int(0.5 * beat_seconds * SAMPLE_RATE)):
            struck = local[: max(0, len(local) - eighth)]
            part[eighth:] += _panned(
                0.05 * np.exp(-struck / 0.02) * hat[start + eighth : start + eighth + len(struck)], 0.7
            )
    return _on_the_grid(band)


def _panned(signal: np.ndarray, place: float) -> np.ndarray:
    """Returns a mono signal at `place`, from 0 (left) to 1 (right), with constant power."""
    return signal[:, None] * np.sqrt(np.array([1.0 - place, place]))


def _on_the_grid(signal: np.ndarray) -> np.ndarray:
    return np.round(signal / GRID) * GRID


@functools.cache
def song(count: int) -> np.ndarray:
    """Returns `voice` plus `accompaniment`, float32 (time, 2), which cannot be written to: it is made once."""
    waveform = (voice(count) + accompaniment(count)).astype(np.float32)
    waveform.setflags(write=False)
    return waveform


def short_song() -> np.ndarray:
    """Returns two seconds, float32 (time, 2)."""
    return song(2 * SAMPLE_RATE)


def long_song() -> np.ndarray:
    """Returns thirteen seconds, float32 (time, 2): two segments of 512 frames for Spleeter."""
    return song(13 * SAMPLE_RATE)


def one_segment() -> np.ndarray:
    """Returns the start of `long_song` that fills one segment of Spleeter to the last frame."""
    return long_song()[:ONE_SEGMENT]


def one_sample_more() -> np.ndarray:
    """Returns `one_segment` and one sample more, for which Spleeter takes a second segment."""
    return long_song()[: ONE_SEGMENT + 1]


def mono_song() -> np.ndarray:
    """Returns a second in one channel, float32 (time, 1), which Spleeter duplicates."""
    return song(SAMPLE_RATE)[:, :1]


def shorter_than_a_frame() -> np.ndarray:
    """Returns 1000 samples from the middle of the song, float32 (time, 2)."""
    return song(SAMPLE_RATE)[20000:21000]


def silence() -> np.ndarray:
    """Returns a second of zeros, float32 (time, 2)."""
    return np.zeros((SAMPLE_RATE, 2), np.float32)


SIGNALS = {
    "short_song": short_song,
    "long_song": long_song,
    "one_segment": one_segment,
    "one_sample_more": one_sample_more,
    "mono_song": mono_song,
    "shorter_than_a_frame": shorter_than_a_frame,
    "silence": silence,
}
