"""What a file says of its audio, by one set of words for both decoders."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AudioInfo:
    """What a file says of its audio.

    Attributes:
        path: Where the file lies.
        sample_rate: Sample rate in Hz.
        channels: Number of channels of the audio stream.
        frames: The exact count of samples per channel (for mp3, what its header says), or None where only decoding
            would tell.
        duration_seconds: `frames / sample_rate` where that is known, else what the container states or lets estimate,
            else None.
        format: The container: libsndfile's word ('WAV', 'FLAC', 'OGG'), or FFmpeg's in capitals ('MP3', 'MOV',
            'MATROSKA').
        subtype: The coding: libsndfile's word where it has one ('PCM_16', 'FLOAT', 'VORBIS', 'MPEG_LAYER_III'), else
            FFmpeg's codec name in capitals ('AAC', 'OPUS').
    """

    path: Path
    sample_rate: int
    channels: int
    frames: int | None
    duration_seconds: float | None
    format: str
    subtype: str
