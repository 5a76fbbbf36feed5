"""Random excerpts of tracks that are in memory. What is read from files ahead of the step is in `train/`."""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from jaxsep.errors import AudioError
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.levels import measure_levels
from jaxsep.training.objective import Batch
from jaxsep.typing import HostWaveform


def random_batches(
    tracks: Sequence[Sequence[HostWaveform]], spec: ModelSpec, *, batch_size: int, seed: int = 0
) -> Iterator[Batch]:
    """Yields batches without end: chunks of the model from random places of random tracks, and their sums as mixtures.

    Args:
        tracks: The sources of each track, in the order of the model's stems, at its sample rate. Tracks end with their
            shortest source.
        spec: The model. Where its procedure normalises tracks, so are these.
        batch_size: Chunks in a batch.
        seed: Seed of the places.

    Raises:
        AudioError: There is no track, or one has another number of sources or channels, or is shorter than a chunk.
    """
    sources = [_sources(track, spec, f"Track {number}") for number, track in enumerate(tracks, start=1)]
    if not sources:
        raise AudioError("There is no track to learn from; give one at least.")
    return _batches(sources, spec.chunk_length, batch_size, np.random.default_rng(seed))


def _batches(tracks: Sequence[np.ndarray], length: int, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    while True:
        chosen = [tracks[number] for number in rng.integers(len(tracks), size=batch_size)]
        starts = [rng.integers(track.shape[1] - length + 1) for track in chosen]
        sources = np.stack([track[:, start : start + length] for track, start in zip(chosen, starts, strict=True)])
        yield Batch(jnp.asarray(sources.sum(axis=1)), jnp.asarray(sources))


def _sources(track: Sequence[HostWaveform], spec: ModelSpec, name: str) -> np.ndarray:
    """Returns a track's sources as one array, (source, time, channel), at the level that the model is to hear."""
    channels = [waveform.shape[1] for waveform in track]
    if channels != [spec.channels] * len(spec.stems):
        raise AudioError(
            f"{name} has sources of {', '.join(map(str, channels)) or 'no'} channels, and the model learns from "
            f"{len(spec.stems)} of {spec.channels}: {', '.join(spec.stems)}."
        )
    length = min(len(waveform) for waveform in track)
    if length < spec.chunk_length:
        raise AudioError(f"{name} has {length} samples, and a chunk takes {spec.chunk_length}; leave it out.")
    sources = np.stack([waveform[:length] for waveform in track]).astype(np.float32, copy=False)
    if spec.procedure.normalise is None:
        return sources
    levels = measure_levels(iter([sources.sum(axis=0)]), spec.procedure.normalise, spec.channels)
    return levels.normalised(sources).astype(np.float32, copy=False)
