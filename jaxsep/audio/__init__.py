"""Files <-> float32 numpy arrays (time, channel): decoding, encoding, sample rate conversion, streamed. No jax."""

from jaxsep.audio.decoders import AudioInfo
from jaxsep.audio.formats import SUBTYPES, check_output, choose_subtype
from jaxsep.audio.reader import AudioReader, probe
from jaxsep.audio.resample import Resampler, resample, resampled_length
from jaxsep.audio.whole_file import read_audio
from jaxsep.audio.writer import AudioWriter, close_together

__all__ = [
    "SUBTYPES",
    "AudioInfo",
    "AudioReader",
    "AudioWriter",
    "Resampler",
    "check_output",
    "choose_subtype",
    "close_together",
    "probe",
    "read_audio",
    "resample",
    "resampled_length",
]
