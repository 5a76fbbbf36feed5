"""How tracks are taken through networks, against the loops of demucs 4.1.0 and msst 0.1.0 with the same small network.

The network tells of all that it sees: of the mean of the chunk, padding and all, and of each sample's place in it.
"""

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from separation.conftest import noise

from jaxsep.dsp.cuts import Chunking
from jaxsep.models import FAMILIES, Family, NetworkConfig, Procedure, Waveform
from jaxsep.models.ensemble import EnsembleSpec
from jaxsep.models.procedure import DEMUCS, MSST
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.ensemble import Ensemble, EnsembleSeparator
from jaxsep.separation.estimate import delays, estimate_sources
from jaxsep.separation.separator import Model, Separator

ORACLES = Path(__file__).parents[2] / ".cache" / "oracles"
RATE = 1000
SEGMENT = 400
GAINS = (0.7, -0.4)
# Float32 sums over a chunk and over chunks, in other orders; samples are below one.
ROUNDING = 2e-5


class TellingConfig(NetworkConfig):
    """Takes multiples of `step`, as networks with strides do."""

    step: int = 1
    gain: float = 1.0

    @property
    def length_step(self):
        return self.step


class Telling(nn.Module):
    config: TellingConfig

    def __call__(self, chunks, *, train):
        chunks = self.config.gain * chunks
        places = jnp.linspace(0, 1, chunks.shape[-2]).reshape((1,) * (chunks.ndim - 2) + (-1, 1))
        told = 0.3 * chunks.mean(axis=(-2, -1), keepdims=True) + places * chunks[..., :1, :]
        return jnp.stack([gain * chunks + told for gain in GAINS], axis=-3)


class TorchTelling(torch.nn.Module):
    """The same, as both programs call it: (batch, channel, time) to (batch, source, channel, time)."""

    samplerate, sources, audio_channels, segment = RATE, ["a", "b"], 2, SEGMENT / RATE

    def __init__(self, step=1, gain=1.0):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))
        self.step = step

    def valid_length(self, length):
        return -(-length // self.step) * self.step

    def forward(self, chunks):
        chunks = self.gain * chunks
        places = torch.linspace(0, 1, chunks.shape[-1])
        told = 0.3 * chunks.mean(dim=(1, 2), keepdim=True) + places * chunks[..., :1]
        return torch.stack([gain * chunks + told for gain in GAINS], dim=1)


class FixedTorchTelling(TorchTelling):
    """Hears chunks of one length alone, as HT Demucs does."""

    def valid_length(self, length):
        return SEGMENT


@pytest.fixture(autouse=True)
def _oracles(monkeypatch):
    monkeypatch.syspath_prepend(str(ORACLES))
    monkeypatch.setitem(FAMILIES, "telling", Family(TellingConfig, Telling, "waveform"))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("demucs", "msst", "ml_collections")]:
        del sys.modules[name]


def model(cutting, *, step=1, gain=1.0, **procedure):
    config = TellingConfig(n_sources=2, step=step, gain=gain)
    spec = ModelSpec(
        name="telling",
        family="telling",
        config=config,
        domain=Waveform(),
        procedure=Procedure(cutting=cutting, **procedure),
        stems=("a", "b"),
        sample_rate=RATE,
        channels=2,
        licence="MIT",
        provenance="made for a test",
    )
    return Model(Telling(config), {}, spec, "0" * 64)


def demucs_cutting(overlap, last, *, step=1, power=1.0):
    seen = -(-SEGMENT // step) * step
    return Chunking(
        chunk_length=seen,
        estimate_length=SEGMENT,
        chunk_hop=int((1 - overlap) * SEGMENT),
        window="triangular",
        window_power=power,
        last=last,
    )


def both_ways(ours, mixture):
    """The stems of the moving window, in blocks of odd lengths, and of the whole track in one piece."""
    separator = Separator(ours)
    blocks = np.split(mixture, np.arange(97, len(mixture), 97))
    streamed = np.concatenate(list(separator.stream(lambda: iter(blocks), length=len(mixture))), axis=1)
    whole = jax.jit(lambda mixture: estimate_sources({}, mixture, model=ours.module, spec=ours.spec))(mixture)
    return streamed, np.asarray(whole)


def in_torch(mixture):
    return torch.from_numpy(mixture.T.copy())[None]


def in_numpy(estimates):
    return estimates[0].movedim(-1, -2).numpy()


# Shorter than a chunk, about one chunk, and several; the last chunk less than half full, more, and a single sample.
LENGTHS = (1, 150, 399, 401, 1000, 1290)


@pytest.mark.parametrize(
    ("last", "step", "network"), [("centred", 1, FixedTorchTelling), ("own_length", 1, TorchTelling)]
)
@pytest.mark.parametrize(("overlap", "power"), [(0.25, 1.0), (0.6, 2.0), (0.0, 1.0)])
def test_chunks_windows_and_ends_are_those_of_demucs(last, step, network, overlap, power):
    from demucs.apply import apply_model

    ours = model(demucs_cutting(overlap, last, step=step, power=power))
    for length in LENGTHS:
        mixture = noise(length, seed=length)
        options = {"shifts": 0, "overlap": overlap, "transition_power": power}
        expected = in_numpy(apply_model(network(), in_torch(mixture), **options))
        for found in both_ways(ours, mixture):
            np.testing.assert_allclose(found, expected, atol=ROUNDING)


def test_networks_that_take_multiples_hear_real_audio_around_each_chunk_as_in_demucs():
    """A chunk of 400 samples is rounded up to 448, and the last one to the next multiple of 64."""
    from demucs.apply import apply_model

    ours = model(demucs_cutting(0.25, "own_length", step=64), step=64)
    for length in LENGTHS:
        mixture = noise(length, seed=length)
        expected = in_numpy(apply_model(TorchTelling(step=64), in_torch(mixture), shifts=0, overlap=0.25))
        for found in both_ways(ours, mixture):
            np.testing.assert_allclose(found, expected, atol=ROUNDING)


def test_time_shifts_and_the_level_of_the_track_are_those_of_demucs(monkeypatch):
    import demucs.apply

    ours = model(demucs_cutting(0.25, "centred"), normalise=DEMUCS, shifts=3)
    for length in (150, 1000, 1290):
        # Off zero, and not of one level.
        mixture = 3 * noise(length, seed=length) + np.float32(0.2)
        drawn = iter(RATE // 2 - delay for delay in delays(3, RATE, 0))
        monkeypatch.setattr(demucs.apply.random, "randint", lambda low, high, drawn=drawn: next(drawn))
        # demucs.api.Separator.separate_tensor.
        heard = in_torch(mixture)
        ref = heard[0].mean(0)
        normalised = (heard - ref.mean()) / (ref.std() + 1e-8)
        estimates = demucs.apply.apply_model(FixedTorchTelling(), normalised, shifts=3, overlap=0.25)
        expected = in_numpy(estimates * (ref.std() + 1e-8) + ref.mean())
        for found in both_ways(ours, mixture):
            np.testing.assert_allclose(found, expected, atol=5 * ROUNDING)


def test_a_bag_of_models_is_that_of_demucs():
    from demucs.apply import BagOfModels, apply_model

    gains, weights = (1.0, 0.5, -2.0), [[1.0, 0.0], [0.25, 1.0], [0.0, 3.0]]
    bag = BagOfModels([FixedTorchTelling(gain=gain) for gain in gains], weights=weights)
    members = [model(demucs_cutting(0.25, "centred"), gain=gain) for gain in gains]
    spec = EnsembleSpec(
        name="bag", members=[each.spec for each in members], weights=weights, licence="MIT", provenance="test"
    )
    separator = EnsembleSeparator(Ensemble(dict(enumerate(members)), spec, ""))
    for length in (150, 1000, 1290):
        mixture = noise(length, seed=length)
        expected = in_numpy(apply_model(bag, in_torch(mixture), shifts=0, overlap=0.25))
        found = np.stack(list(separator.separate(mixture, RATE).stems.values()))
        np.testing.assert_allclose(found, expected, atol=ROUNDING)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("num_overlap", [2, 4])
def test_chunks_windows_and_ends_are_those_of_msst(num_overlap, batch_size):
    """The unfaded window of the first or last chunk is that of its whole batch, whatever batch computes it here."""
    from ml_collections import ConfigDict
    from msst.utils.model_utils import demix

    cutting = Chunking(
        chunk_length=SEGMENT,
        chunk_hop=SEGMENT // num_overlap,
        window="fades",
        window_batch=batch_size,
        last="reflected",
    )
    ours = model(cutting)
    config = ConfigDict(
        {
            "audio": {"chunk_size": SEGMENT},
            "inference": {"num_overlap": num_overlap, "batch_size": batch_size},
            "training": {"instruments": ["a", "b"], "target_instrument": None},
        }
    )
    for length in LENGTHS:
        mixture = noise(length, seed=length)
        found = demix(config, TorchTelling(), mixture.T.copy(), torch.device("cpu"), "generic")
        expected = np.stack([found[stem].T for stem in ("a", "b")])
        for streamed_or_whole in both_ways(ours, mixture):
            np.testing.assert_allclose(streamed_or_whole, expected, atol=ROUNDING)


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_the_level_of_the_track_is_that_of_msst(level):
    """A silent track too, of which msst takes the deviation as one."""
    from msst.utils.audio_utils import denormalize_audio, normalize_audio

    mixture = level * noise(1000) + np.float32(0.5)
    ours = model(Chunking(chunk_length=SEGMENT, chunk_hop=SEGMENT), normalise=MSST)
    normalised, known = normalize_audio(mixture.T)
    without = model(Chunking(chunk_length=SEGMENT, chunk_hop=SEGMENT))
    plain = Separator(without).separate(np.ascontiguousarray(normalised.T), RATE).stems
    expected = np.stack([denormalize_audio(stem, known) for stem in plain.values()])
    for found in both_ways(ours, mixture):
        np.testing.assert_allclose(found, expected, atol=ROUNDING)
