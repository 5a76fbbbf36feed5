"""Trains a small U-Net on songs of your own, and keeps it as a checkpoint that every command of jaxsep takes.

    python examples/train_your_own.py SONGS mine.safetensors
    jaxsep separate song.wav -m mine.safetensors

SONGS holds a folder for each song with vocals.wav and accompaniment.wav, at 44100 Hz, of two channels and some seconds
or more. `python -m train` does much more: it resumes, validates, augments, and takes data that do not fit into memory.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import soundfile

import jaxsep
from jaxsep.training import Batch, LossConfig, OptimizerConfig, build_optimizer, create_state, objective, train_step
from jaxsep.weights.checkpoint import save_checkpoint

SPEC = jaxsep.ModelSpec.parse(
    {
        "name": "mine",
        "family": "unet",
        "config": {"n_sources": 2, "bins": 512, "filters": [8, 16, 32, 64]},
        "domain": {"kind": "magnitude", "stft": {"n_fft": 2048, "hop_length": 512}},
        "procedure": {"cutting": {"chunk_length": 34304}},  # 64 frames
        "stems": ["vocals", "accompaniment"],
        "sample_rate": 44100,
        "channels": 2,
        "licence": "yours",
        "provenance": "trained by examples/train_your_own.py",
    },
    where="this example's model",
)


def read_song(folder):
    """Returns the sources of a song, (source, time, channel)."""
    read = [soundfile.read(folder / f"{stem}.wav", dtype="float32", always_2d=True) for stem in SPEC.stems]
    if any((rate, audio.shape[1]) != (SPEC.sample_rate, SPEC.channels) for audio, rate in read):
        raise jaxsep.AudioError(f"{folder} is not of {SPEC.sample_rate} Hz and {SPEC.channels} channels; convert it.")
    length = min(len(audio) for audio, _ in read)
    return np.stack([audio[:length] for audio, _ in read])


def draw_batch(songs, size, rng):
    """Returns excerpts of songs, and the mixtures that they add up to."""
    excerpts = []
    for song in rng.integers(len(songs), size=size):
        start = rng.integers(songs[song].shape[1] - SPEC.chunk_length + 1)
        excerpts.append(songs[song][:, start : start + SPEC.chunk_length])
    sources = np.stack(excerpts)
    return Batch(sources.sum(axis=1), sources)


def train(songs, *, steps, batch_size, seed=0):
    """Returns the variables of a network that has learned from songs."""
    network, key, rng = SPEC.network(), jax.random.key(seed), np.random.default_rng(seed)
    variables = jax.jit(partial(network.init, train=False))(key, jnp.zeros((1, *SPEC.input_shape())))
    optimizer = build_optimizer(OptimizerConfig(learning_rate=1e-3), variables["params"])
    loss_fn = partial(objective, model=network, spec=SPEC, loss=LossConfig(), train=True)
    step = jax.jit(partial(train_step, loss_fn=loss_fn, optimizer=optimizer, axis_name=None), donate_argnums=0)
    state = create_state(variables, optimizer, ema=False)
    for number in range(1, steps + 1):
        state, metrics = step(state, draw_batch(songs, batch_size, rng), key)
        if number in (1, steps) or number % 100 == 0:
            print(f"step {number}  loss {float(metrics.loss):.5g}", flush=True)
    return state.evaluated_variables


def main():
    """Reads songs, trains, and writes the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=8)
    arguments = parser.parse_args()
    songs = [read_song(folder) for folder in sorted(arguments.songs.iterdir()) if folder.is_dir()]
    variables = train(songs, steps=arguments.steps, batch_size=arguments.batch_size)
    save_checkpoint(arguments.checkpoint, SPEC, variables)


if __name__ == "__main__":
    main()
