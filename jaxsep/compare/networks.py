"""A network with its weights, ours or a twin's, as the comparison of parity takes it: arrays of our layout in and out.

What is compared is in parity.py, which runs it; twins.py finds the twins.
"""

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxsep.compare.twins import Layers, build_twin
from jaxsep.models.spec import ModelSpec
from jaxsep.typing import Variables
from jaxsep.weights.tree import flatten

# Magnitudes (batch, frame, freq, channel), or waveforms (batch, time, channel); estimates have sources behind batch.
Inputs = np.ndarray


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
        network, self._twin = build_twin(spec, variables, "torch")
        self._network = network.eval()
        self.variables = self._twin.to_variables(network)
        self.names = self._twin.names

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
            found = self._twin.layer_outputs(self._network, _channels_second(inputs))
        layers = {name: maps.movedim(1, -1).numpy() for name, maps in found.items()}
        return self._twin.layers_like_ours(layers, self.spec, self.variables)

    def converted(self) -> Variables | str:
        """See `Network`."""
        return self._twin.converted(self._network, self.spec)


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
        self._network, self._twin = build_twin(spec, variables, "tensorflow")
        import keras

        self.spec = spec
        self.variables = self._twin.to_variables(self._network)
        self.description = f"Keras {keras.__version__} on TensorFlow {tf.__version__} on the CPU"
        self.names = self._twin.names

    def estimates(self, inputs: Inputs) -> np.ndarray:
        """See `Network`."""
        return self._network(inputs, training=False).numpy()

    def layers(self, inputs: Inputs) -> Layers:
        """See `Network`."""
        layers = dict(self._twin.layer_outputs(self._network, inputs))
        return self._twin.layers_like_ours(layers, self.spec, self.variables)

    def converted(self) -> Variables | str:
        """See `Network`."""
        return self._twin.converted(self._network, self.spec)


NETWORKS: dict[str, type[TorchTwin] | type[TensorFlowTwin]] = {"torch": TorchTwin, "tensorflow": TensorFlowTwin}


def _channels_second(inputs: Inputs) -> Any:
    import torch

    # A copy: what JAX gives cannot be written to, and torch warns of it.
    return torch.from_numpy(np.moveaxis(inputs, -1, 1).copy())


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
