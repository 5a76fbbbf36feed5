"""A whole file as one array, at the rate and with the channels that are asked for. For files that fit into memory."""

import os

import numpy as np
from jaxtyping import Float32

from jaxsep.audio.reader import AudioReader
from jaxsep.audio.resample import resample
from jaxsep.errors import AudioError

_BLOCK = 1 << 16


def read_audio(
    path: str | os.PathLike[str], *, sample_rate: int | None = None, channels: int | None = None
) -> tuple[Float32[np.ndarray, "time channel"], int]:
    """Returns all samples of a file, and their sample rate in Hz.

    Args:
        path: A file of any kind that `AudioReader` reads.
        sample_rate: Sample rate in Hz to convert to; None for the file's own.
        channels: Number of channels: mono is repeated, other files must have so many. None for the file's own.

    Raises:
        AudioError: The file cannot be read, is cut short or damaged, or has other channels.
    """
    with AudioReader(path) as reader:
        samples, rate = np.concatenate(list(reader.blocks(_BLOCK))), reader.info.sample_rate
        if reader.warning is not None:
            raise AudioError(reader.warning)
    found = samples.shape[1]
    if channels is not None and found != channels:
        if found != 1:
            raise AudioError(f"{path} has {found} channels, and {channels} are asked for; mix it down first.")
        samples = np.repeat(samples, channels, axis=1)
    if sample_rate is None:
        return samples, rate
    return resample(samples, rate, sample_rate), sample_rate
