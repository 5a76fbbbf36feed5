"""Sample rate conversion, streamed: the same samples however the audio is cut into blocks. No files, no jax."""

import numpy as np
import soxr
from jaxtyping import Float32

from jaxsep.errors import AudioError


def resampled_length(length: int, from_rate: int, to_rate: int) -> int:
    """Returns how many frames `length` frames become: the ceiling of `length * to_rate / from_rate`.

    The ceiling, since then a round trip never loses a frame: from `length` to another rate and back gives `length`
    frames or more, and cutting is all that is needed to get the exact count.

    Args:
        length: Frames at `from_rate`.
        from_rate: In Hz.
        to_rate: In Hz.
    """
    return -(-length * to_rate // from_rate)


class Resampler:
    """Converts a stream of blocks to another sample rate with libsoxr's HQ filter (stop band -120 dB, no delay).

    The output is that of libsoxr for the whole audio, as if silence followed it, cut to `resampled_length` frames.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        """Starts a stream.

        Args:
            from_rate: Of the blocks pushed, in Hz.
            to_rate: Of the blocks returned, in Hz.
            channels: Of both.

        Raises:
            AudioError: A rate is not positive.
        """
        if from_rate < 1 or to_rate < 1:
            raise AudioError(f"Audio cannot be resampled from {from_rate} Hz to {to_rate} Hz; rates must be positive.")
        self._from_rate = from_rate
        self._to_rate = to_rate
        self._channels = channels
        self._stream = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")
        self._taken = 0
        self._given = 0

    def push(self, block: Float32[np.ndarray, "time channel"]) -> Float32[np.ndarray, "time_out channel"]:
        """Takes a block and returns what can be computed by now, perhaps nothing; the block itself at equal rates."""
        if self._stream is None:
            return block
        self._taken += len(block)
        return self._count(self._stream.resample_chunk(np.ascontiguousarray(block)))

    def finish(self) -> Float32[np.ndarray, "time_out channel"]:
        """Returns the rest, so that in all `resampled_length` frames were returned; nothing can be pushed after."""
        if self._stream is None:
            return np.empty((0, self._channels), np.float32)
        # libsoxr rounds the count; silence for two more output frames makes it at least the ceiling.
        silence = np.zeros((2 + 2 * self._from_rate // self._to_rate, self._channels), np.float32)
        rest = self._count(self._stream.resample_chunk(silence, last=True))
        total = resampled_length(self._taken, self._from_rate, self._to_rate)
        return rest[: len(rest) - (self._given - total)]

    def _count(self, block: np.ndarray) -> np.ndarray:
        block = block.reshape(-1, self._channels)  # libsoxr drops the channel axis of mono
        self._given += len(block)
        return block


def resample(
    waveform: Float32[np.ndarray, "time channel"], from_rate: int, to_rate: int
) -> Float32[np.ndarray, "time_out channel"]:
    """Converts a whole waveform; bit for bit what `Resampler` gives for any cut of it into blocks.

    Args:
        waveform: The audio at `from_rate`; returned itself where the rates are equal.
        from_rate: In Hz.
        to_rate: In Hz.

    Raises:
        AudioError: A rate is not positive.
    """
    resampler = Resampler(from_rate, to_rate, waveform.shape[1])
    first = resampler.push(waveform)
    return first if from_rate == to_rate else np.concatenate([first, resampler.finish()])
