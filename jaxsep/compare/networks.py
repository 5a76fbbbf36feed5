"""A network with its weights, ours or a twin's, as the comparison of parity takes it: arrays of our layout in and out.

What is compared is in parity.py, which runs it; where the twins are is in frameworks.py.
"""

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxsep.compare.frameworks import build_twin
from jaxsep.models.spec import ModelSpec
from jaxsep.models.unet import UNetConfig
from jaxsep.models.wave_unet import WaveUNetConfig
from jaxsep.models.wave_unet_resampled import ResampledWaveUNetConfig
from jaxsep.typing import Variables
from jaxsep.weights import spleeter, twins, wave_unet
from jaxsep.weights.mapping import Rule, apply
from jaxsep.weights.tree import expected_shapes, flatten

# Magnitudes (batch, frame, freq, channel), or waveforms (batch, time, channel); estimates have sources behind batch.
Inputs = np.ndarray
# What layers give, by the names of ours: 'source_0/encoder_1/conv'; of several maps that one layer gives '...[0]'.
Layers = dict[str, np.ndarray]


class Network(ABC):
    """A network that estimates sources.

    Attributes:
        spec: What its weights belong to.
        variables: Its weights in our layout; a twin's as its own module reads them back.
        description: What computes it, with the version.
        names: Whose names `converted` takes.
        rules: What reports say of it, beside what they say of all.
    """

    spec: ModelSpec
    variables: Variables
    description: str
    names: str
    rules: tuple[str, ...] = ()

    @abstractmethod
    def estimates(self, inputs: Inputs) -> np.ndarray:
        """Returns the network's output, not in training."""

    @abstractmethod
    def layers(self, inputs: Inputs) -> Layers:
        """Returns what every layer gives, in the order in which they are computed where that is known."""

    @abstractmethod
    def converted(self) -> Variables | str:
        """Returns its weights as the rules of `jaxsep convert` read them, or why there are no rules for them."""


class JaxNetwork(Network):
    """Ours, compiled, with float32 products as exact as the device has them; see `Network`."""

    names = "ours"

    def __init__(self, spec: ModelSpec, variables: Variables, device: jax.Device) -> None:
        """Places the weights."""
        self.spec, self.variables = spec, variables
        self.description = f"JAX {jax.__version__} on {device.device_kind}"
        module = spec.network()
        self._placed = jax.device_put(variables, device)
        self._estimates = jax.jit(functools.partial(module.apply, train=False))
        self._layers = jax.jit(
            functools.partial(module.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
        )

    def estimates(self, inputs: Inputs) -> np.ndarray:
        """See `Network`."""
        with jax.default_matmul_precision("highest"):
            return np.asarray(self._estimates(self._placed, inputs))

    def layers(self, inputs: Inputs) -> Layers:
        """See `Network`."""
        with jax.default_matmul_precision("highest"):
            _, captured = self._layers(self._placed, inputs)
        return dict(_captured(captured["intermediates"], ()))

    def converted(self) -> Variables | str:
        """See `Network`."""
        return "they have our names"

    def is_float16(self) -> bool:
        """Whether every weight is a number of 16 bits, as those of checkpoints that are stored so are."""
        with np.errstate(over="ignore"):
            leaves = map(np.asarray, flatten(self.variables).values())
            return all(np.array_equal(leaf, leaf.astype(np.float16)) for leaf in leaves)


class TorchTwin(Network):
    """The PyTorch twin, on the CPU; see `Network`."""

    def __init__(self, spec: ModelSpec, variables: Variables) -> None:
        """Builds the twin and copies the weights.

        Raises:
            ConfigError: The family has none.
        """
        import torch

        self.spec = spec
        self.description = f"PyTorch {torch.__version__} on the CPU"
        network, self._exchange = build_twin(spec, variables, "torch")
        self._network = network.eval()
        self.variables = self._exchange.to_variables(network)
        self.names = _TORCH_NAMES[spec.family]

    def estimates(self, inputs: Inputs) -> np.ndarray:
        """See `Network`."""
        import torch

        with torch.inference_mode():
            # From (batch, source, channel, ...).
            return self._network(_channels_second(inputs)).movedim(2, -1).contiguous().numpy()

    def layers(self, inputs: Inputs) -> Layers:
        """See `Network`."""
        import torch

        with torch.inference_mode():
            found = self._exchange.layer_outputs(self._network, _channels_second(inputs))
        return _like_ours({name: maps.movedim(1, -1).numpy() for name, maps in found.items()}, self)

    def converted(self) -> Variables | str:
        """See `Network`."""
        spec = self.spec
        state = {name: tensor.numpy() for name, tensor in self._network.state_dict().items()}
        rules: list[Rule]
        if isinstance(spec.config, WaveUNetConfig):
            # Published in TensorFlow alone, and not in torch's layouts: what is read back gets the original's names.
            rules = wave_unet.tensorflow_rules(spec.config)
            state = named_by(rules, self.variables)
        elif isinstance(spec.config, ResampledWaveUNetConfig):
            rules = wave_unet.torch_rules(spec.config, spec.stems)
        else:
            rules = twins.rules(spec, state, [f"source_{m}." for m in range(len(spec.stems))])
        return apply(rules, state, expected_shapes(spec), where="the PyTorch twin")


class TensorFlowTwin(Network):
    """The Keras twin on TensorFlow, on the CPU; see `Network`."""

    def __init__(self, spec: ModelSpec, variables: Variables) -> None:
        """Builds the twin and copies the weights.

        Raises:
            ConfigError: The family has none.
        """
        # Its notes on its start; errors still come.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        # It runs on the CPU, and would take all of a GPU's memory before it finds out.
        tf.config.set_visible_devices([], "GPU")
        self._network, self._exchange = build_twin(spec, variables, "tensorflow")
        import keras

        self.spec = spec
        self.variables = self._exchange.to_variables(self._network)
        self.description = f"Keras {keras.__version__} on TensorFlow {tf.__version__} on the CPU"
        self.names = _TENSORFLOW_NAMES[spec.family]

    def estimates(self, inputs: Inputs) -> np.ndarray:
        """See `Network`."""
        return self._network(inputs, training=False).numpy()

    def layers(self, inputs: Inputs) -> Layers:
        """See `Network`."""
        return _like_ours(self._exchange.layer_outputs(self._network, inputs), self)

    def converted(self) -> Variables | str:
        """See `Network`: under the names that the published checkpoints have."""
        spec = self.spec
        if isinstance(spec.config, WaveUNetConfig):
            rules = wave_unet.tensorflow_rules(spec.config)
        elif isinstance(spec.config, UNetConfig) and len(spec.config.filters) == spleeter.DEPTH:
            rules = spleeter.tensorflow_rules(len(spec.stems))
        else:
            return f"Spleeter's names are those of U-Nets with {spleeter.DEPTH} blocks"
        published = named_by(rules, self.variables)
        return apply(rules, published, expected_shapes(spec), where="the TensorFlow twin")


_TORCH_NAMES = {
    "unet": "of the twin's state dict",
    "jansson": "of `jaxsep convert --family jansson`",
    "classic_unet": "of `jaxsep convert --family classic_unet`",
    "wave_unet": "of f90/Wave-U-Net's TensorFlow checkpoints",
    "wave_unet_resampled": "of f90/Wave-U-Net-Pytorch's state dicts",
}
_TENSORFLOW_NAMES = {
    "unet": "of Spleeter's TensorFlow checkpoints",
    "wave_unet": "of f90/Wave-U-Net's TensorFlow checkpoints",
}

TWINS: dict[str, type[TorchTwin] | type[TensorFlowTwin]] = {"torch": TorchTwin, "tensorflow": TensorFlowTwin}


def named_by(rules: list[Rule], variables: Variables) -> dict[str, np.ndarray]:
    """Returns variables under the foreign names that rules read, each of which is of one name and changes no layout.

    What the rules drop and must be there, such as norms that nothing depends on, is made up.
    """
    leaves = flatten(variables)
    named = {}
    for rule in rules:
        if hasattr(rule, "target"):
            named[rule.pattern.replace("\\", "")] = np.asarray(leaves[rule.target])
        elif not rule.optional:
            stem, _, kinds = rule.pattern.partition("(")
            named |= {stem + kind: np.zeros(1, np.float32) for kind in kinds.rstrip(")").split("|")}
    return named


def _channels_second(inputs: Inputs) -> Any:
    import torch

    # A copy: what JAX gives cannot be written to, and torch warns of it.
    return torch.from_numpy(np.moveaxis(inputs, -1, 1).copy())


def _like_ours(found: Layers, twin: Network) -> Layers:
    """Returns a twin's layers as ours give them.

    Of the Wave-U-Net's convolutions on the way down, ours compute the middle for the way up and every second sample for
    the way down, where the twins compute all. The redesign's convolutions leave the bias to the norm, and its norms
    rectify.
    """
    config = twin.spec.config
    if isinstance(config, WaveUNetConfig) and config.context:
        layers: Layers = {}
        for name, maps in found.items():
            if name.startswith("down_") and name.endswith("/conv"):
                layers |= {f"{name}[0]": maps, f"{name}[1]": maps[:, ::2]}
            else:
                layers[name] = maps
        return layers
    if isinstance(config, ResampledWaveUNetConfig):
        biases = flatten(twin.variables)
        layers = {}
        for name, maps in found.items():
            if name.endswith("/conv"):
                layers[f"{name}[0]"] = maps - biases[f"params/{name}/bias"]
            else:
                layers[name] = np.maximum(maps, 0) if name.endswith("/norm") else maps
        return layers
    return found


def _captured(node: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    """Yields what linen has captured of each module, by its path."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _captured(value, (*place, key))
        elif place:
            output = value[0]
            if isinstance(output, tuple):
                yield from ((f"{'/'.join(place)}[{i}]", np.asarray(maps)) for i, maps in enumerate(output))
            else:
                yield "/".join(place), np.asarray(output)
