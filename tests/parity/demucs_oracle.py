"""The official Demucs (demucs 4.1.0, and the source of 2.0.3) from .cache/oracles, and models of it that tell.

A model tells where every layer matters: norms, scales and biases are away from their first values.
"""

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

ORACLES = Path(__file__).parents[2] / ".cache" / "oracles"
RATE = 8000
STEMS = ["drums", "bass", "other", "vocals"]
HT = "demucs.htdemucs.HTDemucs"
HYBRID = "demucs.hdemucs.HDemucs"
TIME = "demucs.demucs.Demucs"
V2 = "demucs.model.Demucs"

# Constructor arguments of small networks, as deep as it takes for every kind of layer to be there: of the hybrid kinds
# three layers on spectrograms, of which the last leaves one row, and one in time.
_HYBRID = {
    "channels": 4,
    "samplerate": RATE,
    "nfft": 256,
    "depth": 4,
    "norm_starts": 2,
    "dconv_lstm": 2,
    "dconv_attn": 2,
    "segment": 1,
}
_HT = {
    "channels": 8,
    "samplerate": RATE,
    "nfft": 512,
    "depth": 3,
    "dconv_mode": 3,
    "t_layers": 3,
    "t_heads": 2,
    "t_hidden_scale": 2.0,
}
_TIME = {
    "channels": 4,
    "samplerate": RATE,
    "depth": 3,
    "norm_starts": 1,
    "dconv_lstm": 1,
    "dconv_attn": 2,
    "segment": 1,
}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "htdemucs": (HT, {**_HT, "bottom_channels": 16, "t_dropout": 0.02, "segment": Fraction(6, 5)}),
    # As htdemucs_6s, without channels of the transformer's own; cross-attention first.
    "htdemucs_6s": (HT, {**_HT, "t_cross_first": True, "segment": Fraction(5, 4)}),
    # Layers around a transformer that is not there: they are in the state dict, and nothing uses them.
    "htdemucs_without": (HT, {**_HT, "bottom_channels": 16, "t_layers": 0, "segment": Fraction(6, 5)}),
    "hdemucs": (HYBRID, _HYBRID),
    # As c511e2ab and 7d865c68 of the bag mdx; bands are wider, since there are fewer rows.
    "hdemucs_magnitudes": (HYBRID, {**_HYBRID, "cac": False, "hybrid_old": True, "norm_starts": 999}),
    "hdemucs_bands": (HYBRID, {**_HYBRID, "norm_starts": 999, "multi_freqs": [0.3, 0.6]}),
    "demucs_v3": (TIME, _TIME),
    # As 0d19c1c6 of the bag mdx, and with branches and an LSTM where no published network has them.
    "demucs_v3_bare": (TIME, {**_TIME, "rewrite": False}),
    "demucs_v3_more": (TIME, {**_TIME, "dconv_mode": 3, "lstm_layers": 1}),
    "demucs_v2": (V2, {"channels": 4, "depth": 4, "samplerate": RATE, "segment_length": RATE}),
}


@contextmanager
def official(version: int = 4) -> Iterator[None]:
    """Makes the package `demucs` importable: version 4, or 2."""
    places = [str(ORACLES / "v2")] if version == 2 else []
    added = [*places, str(ORACLES)]
    sys.path[:0] = added
    stubs = {}
    if version == 2:  # it imports them for quantised models, and for reading audio
        stubs["torchaudio"] = types.ModuleType("torchaudio")
        stubs["diffq"] = types.ModuleType("diffq")
        for name in ("DiffQuantizer", "UniformQuantizer", "restore_quantized_state"):
            setattr(stubs["diffq"], name, None)
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for place in added:
            sys.path.remove(place)
        for name in [name for name in sys.modules if name.split(".")[0] in {"demucs", *stubs}]:
            del sys.modules[name]


def build(klass: str, stems: list[str] = STEMS, *, seed: int = 0, **arguments: Any) -> torch.nn.Module:
    """Returns an official network that tells; called within `official`."""
    module, _, name = klass.rpartition(".")
    torch.manual_seed(seed)
    network = getattr(importlib.import_module(module), name)(sources=stems, **arguments)
    with torch.no_grad():
        for key, values in network.named_parameters():
            if values.ndim == 1 and key.endswith(("weight", "scale")):
                values.copy_(0.5 + torch.rand_like(values))
            elif values.ndim == 1:
                values.copy_(0.1 * torch.randn_like(values))
    return network.eval()


def save(network: torch.nn.Module, path: Path, *, half: bool = False, **changes: Any) -> Path:
    """Writes a package as `demucs.states.serialize_model` does, its hash in the name; called within `official`."""
    states = importlib.import_module("demucs.states")
    args, kwargs = network._init_args_kwargs
    package = {
        "klass": type(network),
        "args": args,
        "kwargs": kwargs,
        "state": states.get_state(network, None, half=half),
        "training_args": {"optim": {"lr": 3e-4, "beta2": 0.999}, "dset": {"segment": 11, "names": ["a", None, True]}},
    }
    states.save_with_checksum(package | changes, path)
    (found,) = path.parent.glob(f"{path.stem}-*.th")
    return found


def in_torch(mixture: np.ndarray) -> torch.Tensor:
    """Returns waveforms (batch, time, channel) as Demucs takes them."""
    return torch.from_numpy(np.moveaxis(mixture, -1, 1).copy())


def in_numpy(estimates: torch.Tensor) -> np.ndarray:
    """Returns estimates (batch, source, channel, time) as ours are."""
    return np.moveaxis(estimates.detach().numpy(), 2, -1)
