"""Spleeter's own networks with random weights: a TensorFlow checkpoint of them, and what they make of a magnitude.

Run by test_spleeter_stems.py in Spleeter's own environment, where neither jaxsep nor jax is:

    .venv-spleeter/bin/python tests/parity/spleeter_stems_twin.py FOLDER DEEZERS_CHECKPOINT

FOLDER holds 'mixtures.npz', magnitudes (batch, frame, bin, channel) by the number of their bins. Written into it:
'4stems' and '5stems', checkpoints by TensorFlow's Saver, and 'estimates.npz', what networks make of each mixture, as
'<form>/<bins>/<stem>'. '2stems' is computed with Deezer's published weights.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf
from spleeter.model import get_model_function
from spleeter.utils.configuration import load_configuration

FORMS = ("2stems", "4stems", "5stems")


def random_values(name, shape, rng):
    """Returns values that keep every layer's output about as large as its input, so that every weight matters."""
    kind = name.split("/")[-1].split(":")[0]
    if kind == "global_step":
        return 1_500_000
    if kind == "kernel":
        # Of a transposed convolution, the last axis is what goes in, and each output sees a quarter of the kernel.
        fan_in = shape[0] * shape[1] * shape[3] / 4 if "transpose" in name else shape[0] * shape[1] * shape[2]
        return rng.normal(0, np.sqrt(2 / fan_in), shape)
    if kind in ("gamma", "moving_variance"):
        return rng.uniform(0.5, 1.5, shape)
    return rng.normal(0, 0.2, shape)


def run(form, folder, mixtures, published):
    """Builds the networks of a form, gives them their weights, and returns their estimates of every mixture."""
    configurations = {
        "1024": load_configuration(f"spleeter:{form}"),
        "1536": load_configuration(f"spleeter:{form}-16kHz"),
    }
    networks = [(file["model"], file["instrument_list"], file["model_dir"]) for file in configurations.values()]
    # What Spleeter's files for the two bandwidths differ in is F alone: the same networks see more bins.
    assert networks[0] == networks[1] and [str(file["F"]) for file in configurations.values()] == list(configurations)
    model, instruments, _ = networks[0]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        magnitude = tf.compat.v1.placeholder(tf.float32, (None, None, None, 2))
        outputs = get_model_function(model["type"])(magnitude, instruments, model["params"])
        tf.compat.v1.train.get_or_create_global_step()
        saver = tf.compat.v1.train.Saver()
        if form == "2stems":
            saver.restore(session, str(published / "model"))
        else:
            rng = np.random.default_rng(len(outputs))
            variables = tf.compat.v1.global_variables()
            values = {
                variable.initializer.inputs[1]: random_values(variable.name, variable.shape.as_list(), rng)
                for variable in variables
            }
            session.run([variable.initializer for variable in variables], values)
            saver.save(session, str(folder / form / "model"))
        return {
            f"{form}/{bins}/{name.replace('_spectrogram', '')}": estimate
            for bins, mixture in mixtures.items()
            for name, estimate in session.run(outputs, {magnitude: mixture}).items()
        }


def main():
    """Runs every form."""
    folder, published = map(pathlib.Path, sys.argv[1:])
    with np.load(folder / "mixtures.npz") as file:
        mixtures = dict(file)
    estimates = {}
    for form in FORMS:
        estimates.update(run(form, folder, mixtures, published))
    np.savez(folder / "estimates.npz", **estimates)


if __name__ == "__main__":
    main()
