"""The TensorFlow twin of `jaxsep.models.unet`, in Keras 3's own layers, channels last as ours.

For comparisons, and complete enough to train. Nothing imports this module eagerly: it needs TensorFlow.
"""

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

from jaxsep.compare.twins import Twin
from jaxsep.errors import ConfigError
from jaxsep.models.spec import ModelSpec
from jaxsep.models.unet import UNetConfig
from jaxsep.typing import Variables
from jaxsep.weights.mapping import apply, named_by
from jaxsep.weights.spleeter import DEPTH, tensorflow_rules
from jaxsep.weights.tree import expected_shapes, flatten, unflatten

# Our names of a layer's variables, by the end of Keras's.
_NAMES = {
    "kernel": "kernel",
    "bias": "bias",
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
    "weight": "weight",
}


def build_unet(config: UNetConfig) -> keras.Model:
    """Returns Spleeter's U-Net, (batch, frame, freq, channel) in, (batch, source, frame, freq, channel) out.

    Layers have the names of the linen module's, joined by dots: 'source_0.encoder_1.conv'. Called with `training=True`,
    dropout acts, and norms take the statistics of the batch where the config says so.

    Args:
        config: The shape, as for ours.
    """
    magnitude = keras.Input((None, config.bins, config.channels), name="magnitude")
    logits = [_source_logits(config, magnitude, f"source_{m}") for m in range(config.n_sources)]
    stacked = keras.ops.stack(logits, axis=1)
    masks = keras.ops.sigmoid(stacked) if config.mask == "sigmoid" else keras.ops.softmax(stacked, axis=1)
    return keras.Model(magnitude, masks * keras.ops.expand_dims(magnitude, 1))


def _source_logits(config: UNetConfig, magnitude: keras.KerasTensor, name: str) -> keras.KerasTensor:
    depth, size = len(config.filters), config.kernel_size
    raw, maps = [], magnitude
    for i, features in enumerate(config.filters):
        convolved = keras.layers.Conv2D(features, size, 2, "same", name=f"{name}.encoder_{i}.conv")(maps)
        raw.append(convolved)
        if i < depth - 1:
            maps = _activate(config.encoder_activation, _norm(config, f"{name}.encoder_{i}", convolved))
    maps = raw[-1]
    for i, features in enumerate((*config.filters[-2::-1], 1)):
        transposed = keras.layers.Conv2DTranspose(features, size, 2, "same", name=f"{name}.decoder_{i}.conv")
        maps = _norm(config, f"{name}.decoder_{i}", _activate(config.decoder_activation, transposed(maps)))
        if i < 3 and config.dropout:
            maps = keras.layers.Dropout(config.dropout)(maps)
        if i < depth - 1:
            maps = keras.layers.Concatenate()([raw[-2 - i], maps])
    return keras.layers.Conv2D(config.channels, 4, padding="same", dilation_rate=2, name=f"{name}.mask")(maps)


def _norm(config: UNetConfig, block: str, maps: keras.KerasTensor) -> keras.KerasTensor:
    kind = keras.layers.BatchNormalization if config.batch_statistics else _StoredNormalization
    return kind(momentum=config.norm_momentum, epsilon=config.norm_epsilon, name=f"{block}.norm")(maps)


class _StoredNormalization(keras.layers.BatchNormalization):
    """Normalises by the stored statistics in training too; scale and offset learn, unlike those of a frozen layer."""

    def call(self, inputs: Any, training: bool | None = None, mask: None = None) -> Any:
        return super().call(inputs, training=False, mask=mask)


def _activate(name: str, maps: keras.KerasTensor) -> keras.KerasTensor:
    if name == "leaky_relu":
        return keras.ops.leaky_relu(maps, negative_slope=0.2)
    return keras.ops.relu(maps) if name == "relu" else keras.ops.elu(maps)


def load_variables(network: keras.Model, variables: Variables) -> None:
    """Copies the variables of one of our U-Nets into its twin. Both store kernels alike, so nothing is permuted.

    Args:
        network: The twin, of the same config.
        variables: `params` and `batch_stats` of the linen module.

    Raises:
        ConfigError: A variable has no counterpart, or another shape there.
    """
    ours, theirs = flatten(variables), variables_by_path(network)
    if {path: np.shape(leaf) for path, leaf in ours.items()} != {path: tuple(v.shape) for path, v in theirs.items()}:
        raise ConfigError("The variables are not those of the twin's config; build it from the model's own.")
    for path, variable in theirs.items():
        variable.assign(np.asarray(ours[path]))


def to_variables(network: keras.Model) -> Variables:
    """Returns the twin's weights as the variables of the linen module."""
    return unflatten({path: np.asarray(variable) for path, variable in variables_by_path(network).items()})


def layer_outputs(network: keras.Model, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Runs the network once and returns what every layer with a name of ours gives ('source_0/encoder_1/norm').

    Args:
        network: The twin.
        inputs: Magnitudes (batch, frame, freq, channel) or waveforms (batch, time, channel).
    """
    # Names that Keras gives count from the start of the process, and are none of ours.
    named = {layer.name.replace(".", "/"): layer.output for layer in network.layers if layer.weights}
    found = keras.Model(network.input, list(named.values()))(inputs, training=False)
    return {name: np.asarray(maps) for name, maps in zip(named, found, strict=True)}


def variables_by_path(network: keras.Model) -> dict[str, keras.Variable]:
    """Returns the twin's weights by the paths that they have with us, such as 'params/source_0/mask/kernel'."""
    found = {}
    for layer in network.layers:
        for variable in layer.weights:
            if variable.name not in _NAMES:
                continue  # what dropout draws from
            name = _NAMES[variable.name]
            collection = "batch_stats" if name in ("mean", "var") else "params"
            found["/".join([collection, *layer.name.split("."), name])] = variable
    return found


def converted(network: keras.Model, spec: ModelSpec) -> Variables | str:
    """Returns the twin's weights under the names of Spleeter's checkpoints, as the rules for these read them."""
    if len(_config_of(spec).filters) != DEPTH:
        return f"Spleeter's names are those of U-Nets with {DEPTH} blocks"
    rules = tensorflow_rules(len(spec.stems))
    published = named_by(rules, to_variables(network))
    return apply(rules, published, expected_shapes(spec), where="the TensorFlow twin")


def _config_of(spec: ModelSpec) -> UNetConfig:
    assert isinstance(spec.config, UNetConfig)
    return spec.config


TWIN = Twin(
    build=lambda spec: build_unet(_config_of(spec)),
    load_variables=load_variables,
    to_variables=to_variables,
    layer_outputs=layer_outputs,
    converted=converted,
    names="of Spleeter's TensorFlow checkpoints",
)
