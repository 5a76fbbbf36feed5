"""The TensorFlow twin of `jaxsep.models.wave_unet` in Keras 3, with TensorFlow's own resizing; channels last as ours.

For comparisons, and complete enough to train. `wave_unet_tensorflow.py` is the original's graph of TensorFlow 1, which
writes its checkpoints. Weights are exchanged by unet_keras.py. Nothing imports this module eagerly: it needs
TensorFlow.
"""

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import tensorflow as tf

from jaxsep.compare.reference import unet_keras, wave_unet_layers
from jaxsep.compare.twins import Twin
from jaxsep.models.wave_unet import WaveUNetConfig


def build_wave_unet(config: WaveUNetConfig) -> keras.Model:
    """Returns the Wave-U-Net, (batch, time, channel) in, (batch, source, time, channel) out.

    Every layer is computed whole and then decimated or cropped, as in the original. Layers have the names of the linen
    module's, joined by dots: 'down_0.conv'. Called with `training=True`, estimates are not clipped.

    Args:
        config: The shape, as for ours.
    """
    padding = "valid" if config.context else "same"
    mixture = keras.Input((None, config.channels), name="mixture")
    maps, skips = mixture, []

    def block(maps: keras.KerasTensor, features: int, size: int, name: str) -> keras.KerasTensor:
        convolved = keras.layers.Conv1D(features, size, padding=padding, name=name)(maps)
        return keras.ops.leaky_relu(convolved, negative_slope=0.2)

    for i in range(config.levels):
        maps = block(maps, (i + 1) * config.filters, config.kernel_size, f"down_{i}.conv")
        skips.append(maps)
        maps = maps[:, ::2]
    maps = block(maps, (config.levels + 1) * config.filters, config.kernel_size, "bottom")
    for i in range(config.levels):
        maps = _UPSAMPLING[config.upsampling, config.context](name=f"upsampling_{i}")(maps)
        maps = keras.layers.Concatenate()([_Cropped()([skips.pop(), maps]), maps])
        maps = block(maps, (config.levels - i) * config.filters, config.merge_kernel_size, f"up_{i}")
    original = _Cropped()([mixture, maps])
    maps = keras.layers.Concatenate()([original, maps])
    estimates = []
    for m in range(config.n_sources - (config.output == "difference")):
        estimate = keras.layers.Conv1D(config.channels, 1, name=f"output_{m}")(maps)
        estimates.append(keras.ops.tanh(estimate) if config.output_activation == "tanh" else _Clipped()(estimate))
    if config.output == "difference":
        rest = original
        for estimate in estimates:
            rest = rest - estimate
        estimates.append(_Clipped()(rest))
    return keras.Model(mixture, keras.ops.stack(estimates, axis=1))


class _Linear(keras.layers.Layer):
    """A sample between every two: their mean, by TensorFlow's old resizing of images."""

    context = False

    def call(self, maps: Any) -> Any:
        length = 2 * tf.shape(maps)[1]
        size = tf.stack([1, length - 1 if self.context else length])
        return tf.raw_ops.ResizeBilinear(images=maps[:, None], size=size, align_corners=self.context)[:, 0]

    def compute_output_shape(self, shape: Any) -> Any:
        return (shape[0], None, shape[2])


class _Learned(keras.layers.Layer):
    """A sample between every two, by a convolution with a kernel of two for each channel."""

    context = False

    def build(self, shape: Any) -> None:
        self.weight = self.add_weight(name="weight", shape=(shape[-1],), initializer="glorot_uniform")

    def call(self, maps: Any) -> Any:
        share = tf.sigmoid(self.weight)
        kernel = tf.stack([tf.linalg.diag(share), tf.linalg.diag(1 - share)])
        between = tf.nn.conv1d(maps, kernel, stride=1, padding="VALID" if self.context else "SAME")
        if self.context:
            # There is nothing behind the last sample.
            between = tf.pad(between, [[0, 0], [0, 1], [0, 0]])
        shape = tf.shape(maps)
        doubled = tf.reshape(tf.stack([maps, between], axis=2), [shape[0], 2 * shape[1], shape[2]])
        return doubled[:, :-1] if self.context else doubled

    def compute_output_shape(self, shape: Any) -> Any:
        return (shape[0], None, shape[2])


# Classes of their own instead of arguments, which Keras wants to read from a constructor that nothing wraps.
class _LinearWithContext(_Linear):
    context = True


class _LearnedWithContext(_Learned):
    context = True


_UPSAMPLING: dict[tuple[str, bool], Any] = {
    ("linear", False): _Linear,
    ("linear", True): _LinearWithContext,
    ("learned", False): _Learned,
    ("learned", True): _LearnedWithContext,
}


class _Cropped(keras.layers.Layer):
    """The middle of the first maps, as long as the second; an odd sample is cut from the end."""

    def call(self, both: Any) -> Any:
        maps, like = both
        length = tf.shape(like)[1]
        start = (tf.shape(maps)[1] - length) // 2
        return maps[:, start : start + length]

    def compute_output_shape(self, shapes: Any) -> Any:
        return (shapes[0][0], None, shapes[0][2])


class _Clipped(keras.layers.Layer):
    """Estimates within [-1, 1], but not in training."""

    def call(self, estimate: Any, training: bool | None = None) -> Any:
        return estimate if training else tf.clip_by_value(estimate, -1.0, 1.0)


TWIN = Twin(
    build=lambda spec: build_wave_unet(wave_unet_layers.config_of(spec)),
    load_variables=unet_keras.load_variables,
    to_variables=unet_keras.to_variables,
    layer_outputs=unet_keras.layer_outputs,
    converted=lambda network, spec: wave_unet_layers.converted(
        unet_keras.to_variables(network), spec, where="the TensorFlow twin"
    ),
    names=wave_unet_layers.NAMES,
    layers_like_ours=wave_unet_layers.layers_like_ours,
)
