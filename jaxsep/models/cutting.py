"""How tracks are cut for a network: as published, or with the chunk length and overlap that a user asks for."""

from typing import Any

from jaxsep.dsp.cuts import Chunking, Last
from jaxsep.dsp.stft import STFTConfig
from jaxsep.errors import ConfigError


def whole_frames(transform: STFTConfig, frames: int) -> Chunking:
    """Returns how a track is cut for a network on magnitudes: chunks of so many frames that share none.

    Neighbouring chunks share samples, in which an inverse transform makes them fade by themselves.
    """
    chunk_hop = frames * transform.hop_length
    return Chunking(chunk_length=chunk_hop + transform.n_fft - transform.hop_length, chunk_hop=chunk_hop)


def whole_outputs(input_length: int, output_length: int, *, last: Last) -> Chunking:
    """Returns how a track is cut for a network on waveforms whose estimates belong to the middle of what it sees.

    Every sample is estimated once, with all of its context; zeros stand in front of the track and behind it.

    Args:
        input_length: Samples that the network sees.
        output_length: Samples that it estimates, fewer by an even number.
        last: What the last chunk sees; see `Chunking`.
    """
    return Chunking(chunk_length=input_length, estimate_length=output_length, chunk_hop=output_length, last=last)


def hop_of(length: int, overlap: float | int | None, *, share: float) -> int:
    """Returns from how many units to the next a chunk of `length` units begins.

    Args:
        length: Units that are estimated of a chunk.
        overlap: As in `Waveform.recut`.
        share: Hop over length where no overlap is asked for.

    Raises:
        ConfigError: The overlap is 1, negative, or no whole number above 1.
    """
    if overlap is None:
        return max(round(length * share), 1)
    if 0 <= overlap < 1:
        return max(int((1 - overlap) * length), 1)
    if overlap >= 2 and float(overlap).is_integer():
        return max(length // int(overlap), 1)
    raise ConfigError(
        f"The overlap is {overlap:g}; give the fraction that neighbouring chunks share, such as 0.25, or how many "
        "chunks see each sample: a whole number, 2 or more."
    )


def changed_cutting(
    cutting: Chunking, chunk_length: int, estimate_length: int, chunk_hop: int, *, is_overlapped: bool | None = None
) -> Chunking:
    """Returns a cutting with other lengths; estimates that come to overlap are cross-faded, none is shifted."""
    changes: dict[str, Any] = {
        "chunk_length": chunk_length,
        "estimate_length": estimate_length,
        "chunk_hop": chunk_hop,
    }
    if chunk_hop < estimate_length if is_overlapped is None else is_overlapped:
        changes |= {"window": "crossfade"} if cutting.window == "none" else {}
        changes |= {"last": "padded"} if cutting.last == "shifted" else {}
    return Chunking.parse({**cutting.model_dump(), **changes}, where="the cutting that was asked for")
