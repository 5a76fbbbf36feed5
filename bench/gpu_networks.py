"""The networks that bench/gpu.py measures, with random weights, and all that is asked of a `ModelSpec` for it.

How JAX and PyTorch run them is in gpu_frameworks.py.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

# Examples that differ; larger batches repeat them.
DISTINCT = 4
# What a tiny config of each family has.
_TINY: dict[str, dict[str, Any]] = {
    "unet": {"filters": (2, 4), "bins": 32},
    "wave_unet": {"levels": 2, "filters": 4},
    "wave_unet_resampled": {"filters": (8, 16)},
    "htdemucs": {
        "features": 8,
        "depth": 2,
        "n_fft": 512,
        "bottom_channels": 16,
        "transformer": {"layers": 2, "heads": 2},
        "train_segment": 4096,
    },
}


class Network(NamedTuple):
    """A network with random weights: how fast it is does not depend on them.

    Attributes:
        module: The linen module.
        variables: Its variables, on the host.
        spec: What the weights belong to.
    """

    module: Any
    variables: Any
    spec: Any


@functools.cache
def build(name: str, tiny: bool) -> Network:
    """Returns a published network, or a tiny one of its family."""
    from jaxsep.weights import demucs, spleeter, wave_unet
    from jaxsep.weights.tree import expected_shapes, unflatten

    spec = {**spleeter.SPECS, **wave_unet.SPECS, **demucs.SPECS}[name]
    if tiny:
        spec = tiny_spec(spec)
    rng = np.random.default_rng(0)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        name = path.rpartition("/")[2]
        if name in ("scale", "var", "bias", "mean"):
            return np.full(shape, float(name in ("scale", "var")), np.float32)
        fan_in = max(int(np.prod(shape[:-1])), 1)
        return rng.standard_normal(shape, np.float32) * np.float32(fan_in**-0.5)

    variables = unflatten({path: draw(path, shape) for path, shape in expected_shapes(spec).items()})
    return Network(spec.network(), variables, spec)


def tiny_spec(spec: Any) -> Any:
    """Returns a description like another one, of a network that takes no time."""
    from jaxsep.models.cutting import whole_frames, whole_outputs
    from jaxsep.weights.demucs import demucs_cutting

    config = spec.config.parse(
        {**spec.config.model_dump(), "n_sources": 2, **_TINY[spec.family]}, where="a tiny network"
    )
    described = {**spec.model_dump(), "name": f"tiny-{spec.name}", "config": config, "stems": spec.stems[:2]}
    if sees_magnitudes(spec):
        transform = spec.domain.stft.model_copy(update={"n_fft": 128, "hop_length": 32})
        described["domain"] = {**spec.domain.model_dump(), "stft": transform, "bins": config.bins}
        cutting = whole_frames(transform, 16)
    elif spec.family == "htdemucs":
        cutting = demucs_cutting(config, config.train_segment, spec.procedure.cutting.last)
    else:
        cutting = whole_outputs(*config.lengths(2048), last=spec.procedure.cutting.last)
    described["procedure"] = {"cutting": cutting}
    return spec.parse(described, where="a tiny network")


def chunk_length(spec: Any) -> int:
    """Returns how many samples of the mixture make a chunk."""
    return spec.chunk_length


def chunk_seconds(spec: Any) -> float:
    """Returns how many seconds of a track each further chunk adds."""
    return spec.chunk_hop / spec.sample_rate


def sees_magnitudes(spec: Any) -> bool:
    """Whether the network maps magnitudes; otherwise it maps waveforms."""
    return len(spec.input_shape()) == 3


def host_inputs(spec: Any, batch: int) -> np.ndarray:
    """Returns random inputs of the network, DISTINCT of them at most."""
    drawn = np.random.default_rng(1).standard_normal((min(batch, DISTINCT), *spec.input_shape()), np.float32)
    return np.abs(drawn) if sees_magnitudes(spec) else 0.1 * drawn


def host_sources(spec: Any, batch: int) -> np.ndarray:
    """Returns random sources (batch, source, time, channel), DISTINCT of them at most."""
    shape = (min(batch, DISTINCT), len(spec.stems), chunk_length(spec), spec.channels)
    return 0.1 * np.random.default_rng(2).standard_normal(shape, np.float32)


def torch_magnitudes(spec: Any, waveforms: Any) -> Any:
    """Returns the magnitudes (..., channel, frame, freq) of PyTorch's waveforms (..., channel, time)."""
    import torch

    transform = spec.domain.stft
    window = torch.hann_window(transform.n_fft, device=waveforms.device)
    spectrogram = torch.stft(
        waveforms.reshape(-1, waveforms.shape[-1]),
        transform.n_fft,
        transform.hop_length,
        window=window,
        center=False,
        return_complex=True,
    )
    magnitudes = spectrogram[:, : spec.domain.bins].abs().mT
    return magnitudes.reshape(*waveforms.shape[:-1], *magnitudes.shape[-2:])


def estimated_part(spec: Any, waveforms: Any) -> Any:
    """Returns the samples (..., time) that a network on waveforms estimates."""
    cutting = spec.procedure.cutting
    return waveforms[..., cutting.context : cutting.context + cutting.estimate_length]
