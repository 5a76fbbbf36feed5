"""The TensorFlow twin of `jaxsep.models.wave_unet`, of the operations that the original is made of, by their old names.

For comparisons only. Needs TensorFlow, and of jaxsep nothing, so that it runs in an environment of its own:

    python wave_unet_tensorflow.py FOLDER

FOLDER holds `forms.json`, shapes by name as `WaveUNetConfig` has them, and `mixtures.npz`, one (batch, time, channel)
for each. Written into it: for each form a folder of its name with a checkpoint of random weights, by TensorFlow's own
Saver and with all that the original's training saves; and `estimates.npz`, (batch, source, time, channel) for each.
"""

import json
import pathlib
import sys
from typing import Any

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1


def separator(mixture: Any, form: dict[str, Any], *, training: bool) -> list[Any]:
    """Returns the estimates of each source, after Models/UnetAudioSeparator.py.

    Args:
        mixture: (batch, time, channel), of known length.
        form: The shape, as `WaveUNetConfig` has it.
        training: Whether estimates are left unclipped.
    """
    levels, filters = form["levels"], form["filters"]

    def convolution(maps: Any, features: int, size: int, activation: Any) -> Any:
        padding = "valid" if form["context"] else "same"
        return tf1.layers.conv1d(maps, features, size, activation=activation, padding=padding)

    with tf1.variable_scope("separator"):
        maps, skips = mixture, []
        for i in range(levels):
            maps = convolution(maps, (i + 1) * filters, form["kernel_size"], leaky_relu)
            skips.append(maps)
            maps = maps[:, ::2]
        maps = convolution(maps, (levels + 1) * filters, form["kernel_size"], leaky_relu)
        for i in range(levels):
            maps = upsampled(maps, form, i)
            maps = tf.concat([cropped(skips.pop(), maps), maps], axis=2)
            maps = convolution(maps, (levels - i) * filters, form["merge_kernel_size"], leaky_relu)
        original = cropped(mixture, maps)
        maps = tf.concat([original, maps], axis=2)
        activation = tf.tanh if form["output_activation"] == "tanh" else (lambda each: clipped(each, training))
        outputs = form["n_sources"] - (form["output"] == "difference")
        estimates = [convolution(maps, form["channels"], 1, activation) for _ in range(outputs)]
        if form["output"] == "difference":
            estimates.append(clipped(original - tf.add_n(estimates), training))
    return estimates


def upsampled(maps: Any, form: dict[str, Any], level: int) -> Any:
    """Returns the maps with a sample between every two."""
    _, length, channels = maps.shape
    images = maps[:, None]
    if form["upsampling"] == "linear":
        size = [1, 2 * length - 1 if form["context"] else 2 * length]
        return tf1.image.resize_bilinear(images, size, align_corners=form["context"])[:, 0]
    share = tf.sigmoid(tf1.get_variable(f"interp_{level}", shape=[channels], dtype=tf.float32))
    kernel = tf.stack([tf.linalg.diag(share), tf.linalg.diag(1 - share)])[None]
    between = tf.nn.conv2d(images, kernel, strides=1, padding="VALID" if form["context"] else "SAME")[:, 0]
    order = [position // 2 + length * (position % 2) for position in range(length + between.shape[1])]
    return tf.gather(tf.concat([maps, between], axis=1), order, axis=1)


def cropped(maps: Any, like: Any) -> Any:
    """Returns the middle of maps, as long as others are."""
    start = (maps.shape[1] - like.shape[1]) // 2
    return maps[:, start : start + like.shape[1]]


def leaky_relu(maps: Any) -> Any:
    """Utils.LeakyReLU."""
    return tf.maximum(0.2 * maps, maps)


def clipped(estimate: Any, training: bool) -> Any:
    """Utils.AudioClip."""
    return estimate if training else tf.clip_by_value(estimate, -1.0, 1.0)


def run(form: dict[str, Any], mixture: np.ndarray, folder: pathlib.Path, seed: int) -> np.ndarray:
    """Builds a network and its training, draws weights, saves all variables and returns the estimates."""
    rng = np.random.default_rng(seed)
    with tf.Graph().as_default(), tf1.Session() as session:
        heard = tf1.placeholder(tf.float32, mixture.shape)
        estimates = separator(heard, form, training=False)
        step = tf1.get_variable("global_step", [], tf.int64, tf1.zeros_initializer(), trainable=False)
        loss = tf.add_n([tf.reduce_mean(tf.square(estimate)) for estimate in estimates])
        with tf1.variable_scope("separator_solver"):
            tf1.train.AdamOptimizer(1e-4).minimize(loss)
        session.run(tf1.global_variables_initializer())
        for variable in tf1.trainable_variables():
            shape = variable.shape.as_list()
            # He's scale, so that every layer's output is about as large as its input, and every weight matters.
            values = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])) if len(shape) == 3 else 0.2, shape)
            variable.load(values.astype(np.float32), session)
        step.load(236_118, session)
        tf1.train.Saver(tf1.global_variables(), write_version=tf1.train.SaverDef.V2).save(
            session, str(folder / folder.name), global_step=236_118
        )
        return np.stack(session.run(estimates, {heard: mixture}), axis=1)


def main() -> None:
    """Runs every form."""
    folder = pathlib.Path(sys.argv[1])
    forms = json.loads((folder / "forms.json").read_text())
    with np.load(folder / "mixtures.npz") as mixtures:
        estimates: dict[str, Any] = {
            name: run(form, mixtures[name], folder / name, seed) for seed, (name, form) in enumerate(forms.items())
        }
    np.savez(folder / "estimates.npz", **estimates)


if __name__ == "__main__":
    main()
