"""Whether the stems of an input are there already, complete: what lets an interrupted run be resumed."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsep.audio import AudioReader, choose_subtype, probe, resampled_length
from jaxsep.errors import AudioError

if TYPE_CHECKING:
    from jaxsep.separation.outputs import OutputConfig

# How much of a file's end is decoded to see that it is there.
_END_SECONDS = 1.0
_BLOCK_LENGTH = 1 << 16


def stems_are_complete(mixture: Path, stems: Mapping[str, Path], config: "OutputConfig", model_rate: int) -> bool:
    """Says whether every stem is a whole file of the kind and exact length that a run would write.

    Of stems, headers and the last second are read. The input is decoded only where its header does not tell the length
    that the stems have: it states none (m4a, video), or another one than the file holds (cut or joined files).

    Args:
        mixture: The input.
        stems: Where its stems are, or should be.
        config: How they would be written.
        model_rate: The model's sample rate, in Hz.

    Returns:
        False also where the input cannot be read: running it will say why.
    """
    try:
        with config.open(mixture) as reader:
            info, frames = reader.info, reader.frames
            rate = {"input": info.sample_rate, "model": model_rate}.get(str(config.sample_rate), config.sample_rate)
            assert isinstance(rate, int)
            subtype = choose_subtype(config.format, config.subtype, info.subtype)
            found = {_whole_length(path, rate, info.channels, subtype) for path in stems.values()}
            if len(found) != 1 or None in found:
                return False
            if frames is None or resampled_length(frames, info.sample_rate, rate) not in found:
                frames = sum(len(block) for block in reader.blocks(_BLOCK_LENGTH))
            return resampled_length(frames, info.sample_rate, rate) in found
    except AudioError:
        return False


def _whole_length(path: Path, rate: int, channels: int, subtype: str) -> int | None:
    """Returns how many frames a stem holds, or None where it is no whole file of the kind."""
    try:
        found = probe(path)
        frames = found.frames
        if frames is None or (found.sample_rate, found.channels, found.subtype) != (rate, channels, subtype):
            return None
        start = max(0.0, frames / rate - _END_SECONDS)
        with AudioReader(path, offset_seconds=start) as reader:
            end = sum(len(block) for block in reader.blocks(_BLOCK_LENGTH))
            return frames if reader.warning is None and round(start * rate) + end == frames else None
    except AudioError:
        return None
