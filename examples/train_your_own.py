"""Trains a small U-Net on songs of your own, and keeps it as a checkpoint that every command of jaxsep takes.

    python examples/train_your_own.py SONGS mine.safetensors
    jaxsep separate song.wav -m mine.safetensors

SONGS holds a folder for each song with vocals.wav and accompaniment.wav, of some seconds or more. `python -m train`
does much more: it resumes, validates, augments, and takes data that do not fit into memory.
"""

from pathlib import Path

import typer

from jaxsep import ModelSpec
from jaxsep.audio import read_audio
from jaxsep.training import OptimizerConfig, random_batches, start_training
from jaxsep.weights.checkpoint import save_checkpoint

SPEC = ModelSpec.parse(
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


def read_stem(path: Path):
    """Returns a stem as the model takes it, (time, channel)."""
    return read_audio(path, sample_rate=SPEC.sample_rate, channels=SPEC.channels)[0]


def main(songs: Path, checkpoint: Path, steps: int = 1000, batch_size: int = 8) -> None:
    """Reads songs, trains, and writes the checkpoint."""
    tracks = [[read_stem(song / f"{stem}.wav") for stem in SPEC.stems] for song in sorted(songs.glob("*/"))]
    batches = random_batches(tracks, SPEC, batch_size=batch_size)
    state, step = start_training(SPEC, optimizer=OptimizerConfig(learning_rate=1e-3))
    for number in range(1, steps + 1):
        state, metrics = step(state, next(batches))
        if number in (1, steps) or number % 100 == 0:
            print(f"step {number}  loss {float(metrics.loss):.5g}", flush=True)
    save_checkpoint(checkpoint, SPEC, state.evaluated_variables)


if __name__ == "__main__":
    typer.run(main)
