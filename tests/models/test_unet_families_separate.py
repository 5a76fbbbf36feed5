"""Checkpoints of Jansson's and the classic U-Net, from file to stems: rates, channels, masks, bandwidth, streaming."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import soundfile

from jaxsep.models import FAMILIES
from jaxsep.models.cutting import whole_frames
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.estimate import estimate_sources
from jaxsep.separation.separator import Separator
from jaxsep.weights.checkpoint import save_checkpoint
from jaxsep.weights.rules import SPECS

FAMILY_FORMS = {"jansson": "jansson", "classic_unet": "classic-unet"}
# Narrow and shallow, in chunks of a second or two.
SHAPES = {"jansson": ({"filters": (4, 6)}, 16), "classic_unet": ({"filters": (4, 6)}, 64)}


def small_spec(family, **changes):
    form = SPECS[FAMILY_FORMS[family]]
    shape, frames = SHAPES[family]
    return ModelSpec.parse(
        {
            **form.model_dump(),
            "config": {**form.config.model_dump(), **shape},
            "procedure": {"cutting": whole_frames(form.domain.stft, frames)},
            "provenance": "made up",
            **changes,
        },
        where="the test",
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A checkpoint of each family with random weights: one in a file, one in a folder."""
    folder = tmp_path_factory.mktemp("checkpoints")
    saved = {"jansson": folder / "jansson.safetensors", "classic_unet": folder / "classic"}
    for family, path in saved.items():
        spec = small_spec(family)
        network = FAMILIES[family].module(spec.config)
        magnitude = jnp.zeros((spec.config.stride, spec.domain.bins, spec.channels))
        shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), magnitude, train=False))  # noqa: B023
        rng = np.random.default_rng(0)
        spreads = {"scale": (0.7, 1.3), "var": (0.5, 2.0)}
        variables = jax.tree_util.tree_map_with_path(
            lambda path, leaf: rng.uniform(*spreads.get(path[-1].key, (-0.3, 0.3)), leaf.shape).astype(np.float32),  # noqa: B023
            shapes,
        )
        save_checkpoint(path, spec, variables)
    return saved


@pytest.fixture(scope="module")
def separators(checkpoints):
    return {family: Separator.from_pretrained(path) for family, path in checkpoints.items()}


def noise(length, channels, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (length, channels)).astype(np.float32)


@pytest.mark.parametrize("family", SHAPES)
def test_the_moving_window_gives_what_the_whole_track_gives(separators, family):
    separator = separators[family]
    spec = separator.model.spec
    # Two chunks and a bit, of a length that fills neither hops nor frames.
    mixture = noise(2 * spec.procedure.cutting.chunk_hop + 1234, spec.channels)
    stems = separator.separate(mixture, spec.sample_rate).stems
    whole = estimate_sources(separator.model.variables, jnp.asarray(mixture), model=separator.model.module, spec=spec)
    for stem, expected in zip(spec.stems, whole, strict=True):
        # Batches of other shapes, and sums of frames in another order: float32 rounding. More than -110 dB.
        assert np.abs(stems[stem] - expected).max() < 3e-6 * np.abs(mixture).max()
        # The masks of random weights neither close nor pass everything.
        assert 0.05 < np.abs(expected).mean() / np.abs(mixture).mean() < 0.95


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize(("sample_rate", "channels", "length"), [(44100, 2, 50_001), (48000, 1, 30_000)])
def test_stems_have_the_rate_channels_and_length_of_any_mixture(separators, family, sample_rate, channels, length):
    separation = separators[family].separate(noise(length, channels), sample_rate)
    assert separation.sample_rate == sample_rate
    assert {stem: waveform.shape for stem, waveform in separation.stems.items()} == {
        "vocals": (length, channels),
        "accompaniment": (length, channels),
    }
    assert all(np.abs(waveform).max() > 0.01 for waveform in separation.stems.values())


def test_the_channels_of_stereo_go_through_the_mono_model_one_by_one(separators):
    mixture = noise(20_000, 2)
    together = separators["jansson"].separate(mixture, 8192).stems["vocals"]
    for channel in range(2):
        alone = separators["jansson"].separate(mixture[:, channel : channel + 1], 8192).stems["vocals"]
        np.testing.assert_array_equal(together[:, channel : channel + 1], alone)


def test_janssons_stems_hold_nothing_above_4096_hz(separators):
    mixture = noise(88_200, 1)
    stem = separators["jansson"].separate(mixture, 44100).stems["vocals"]
    frequencies, power = scipy.signal.welch(stem[:, 0], 44100, nperseg=4096)
    above = power[frequencies > 4096 + 50].max()
    # soxr's filter stops at 4096 Hz by more than 100 dB; Welch's window leaks less than this 50 Hz away.
    assert 10 * np.log10(above / power[frequencies < 3500].mean()) < -80


@pytest.mark.parametrize("family", SHAPES)
def test_direct_masks_are_the_networks_own(separators, family):
    """A transform in float64 numpy, times the network's masks, through the least-squares inverse."""
    separator = separators[family]
    spec, module = separator.model.spec, separator.model.module
    n_fft, hop = spec.domain.stft.n_fft, spec.domain.stft.hop_length
    segment = spec.procedure.cutting.chunk_hop // hop
    mixture = noise(spec.procedure.cutting.chunk_hop - 2 * n_fft, spec.channels)
    padded = np.pad(mixture.astype(np.float64), [(n_fft, spec.procedure.cutting.chunk_length), (0, 0)])
    window = scipy.signal.get_window("hann", n_fft)
    starts = [frame * hop for frame in range(segment)]
    spectrum = np.stack([np.fft.rfft(window[:, None] * padded[start : start + n_fft], axis=0) for start in starts])
    magnitude = np.abs(spectrum[:, : spec.domain.bins]).astype(np.float32)
    estimates = np.asarray(module.apply(separator.model.variables, jnp.asarray(magnitude), train=False))
    stems = separator.separate(mixture, spec.sample_rate).stems
    for stem, estimated in zip(spec.stems, estimates, strict=True):
        masked = np.zeros_like(spectrum)
        masked[:, : spec.domain.bins] = estimated * np.exp(1j * np.angle(spectrum[:, : spec.domain.bins]))
        total, squares = np.zeros_like(padded), np.zeros((len(padded), 1))
        for start, frame in zip(starts, masked, strict=True):
            total[start : start + n_fft] += window[:, None] * np.fft.irfft(frame, n_fft, axis=0)
            squares[start : start + n_fft, 0] += window**2
        expected = (total[n_fft:] / squares[n_fft:].clip(1e-9))[: len(mixture)]
        # A float32 network and transforms, the former on magnitudes rounded differently: -100 dB of the mixture.
        assert np.abs(stems[stem] - expected).max() < 1e-5 * np.abs(mixture).max()


@pytest.mark.parametrize("family", SHAPES)
def test_the_command_line_separates_with_a_checkpoint_of_ones_own(checkpoints, family, tmp_path):
    soundfile.write(tmp_path / "song.wav", noise(44_100, 2), 44100)
    # In a process of its own, because the command line sets JAX up for the whole of its process.
    command = [Path(sys.executable).with_name("jaxsep"), "separate", "song.wav", "-m", checkpoints[family], "-o", "out"]
    environment = {**os.environ, "JAXSEP_CACHE": str(tmp_path / "cache")}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    for stem in ("vocals", "accompaniment"):
        waveform, sample_rate = soundfile.read(tmp_path / "out" / "song" / f"{stem}.wav")
        assert (waveform.shape, sample_rate) == ((44_100, 2), 44100)
        assert np.abs(waveform).max() > 0.01
