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

    Of stems, headers and the last second are read; of inputs that do not state their length exactly (m4a, video), all
    is decoded.

    Args:
        mixture: The input.
        stems: Where its stems are, or should be.
        config: How they would be written.
        model_rate: The model's sample rate, in Hz.

    Returns:
        False also where the input cannot be read: running it will say why.
    """
    try:
        with AudioReader(
            mixture, offset_seconds=config.offset_seconds, duration_seconds=config.duration_seconds
        ) as reader:
            info = reader.info
            frames = reader.frames
            if frames is None:
                frames = sum(len(block) for block in reader.blocks(_BLOCK_LENGTH))
    except AudioError:
        return False
    rate = {"input": info.sample_rate, "model": model_rate}.get(str(config.sample_rate), config.sample_rate)
    assert isinstance(rate, int)
    subtype = choose_subtype(config.format, config.subtype, info.subtype)
    expected = (rate, info.channels, subtype, resampled_length(frames, info.sample_rate, rate))
    return all(_is_complete(path, expected) for path in stems.values())


def _is_complete(path: Path, expected: tuple[int, int, str, int]) -> bool:
    try:
        found = probe(path)
        if (found.sample_rate, found.channels, found.subtype, found.frames) != expected:
            return False
        rate, _, _, frames = expected
        start = max(0.0, frames / rate - _END_SECONDS)
        with AudioReader(path, offset_seconds=start) as reader:
            end = sum(len(block) for block in reader.blocks(_BLOCK_LENGTH))
            return reader.warning is None and round(start * rate) + end == frames
    except AudioError:
        return False
