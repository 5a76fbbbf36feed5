"""Signals and files for the tests of jaxsep.audio, made with numpy and PyAV and never with the code under test."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from jaxsep.audio import AudioReader

_PLANAR = {"float32": "fltp", "int16": "s16p", "int32": "s32p"}
# By number of channels, in the words of FFmpeg, which name them in its own order and that of wav.
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def tones(frames: int, sample_rate: int = 44100, *, channels: int = 2, hz: float = 440.0) -> np.ndarray:
    """A tone per channel in a little noise: something that codecs keep and that correlates with nothing but itself."""
    time = np.arange(frames)[:, None] / sample_rate
    noise = np.random.default_rng(7).standard_normal((frames, channels))
    audio = 0.3 * np.sin(2 * np.pi * hz * (1 + np.arange(channels)) * time) + 0.03 * noise
    return audio.astype(np.float32)


def encode(path: Path, codec: str, *waveforms: np.ndarray, sample_rate: int = 44100, video: bool = False) -> Path:
    """Encodes waveforms (time, channel), float32 or integer, as the audio streams of one file."""
    with av.open(str(path), "w") as container:
        if video:
            pictures = container.add_stream("mpeg4", rate=10)
            pictures.width, pictures.height, pictures.pix_fmt = 32, 32, "yuv420p"
        layouts = [LAYOUTS[waveform.shape[1]] for waveform in waveforms]
        streams = [container.add_stream(codec, rate=sample_rate, layout=layout) for layout in layouts]
        for stream, waveform in zip(streams, waveforms, strict=True):
            if _PLANAR[waveform.dtype.name] in [known.name for known in stream.codec_context.codec.audio_formats]:
                stream.codec_context.format = _PLANAR[waveform.dtype.name]
        if video:
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
            for number in range(20):
                picture.pts, picture.time_base = number, Fraction(1, 10)
                container.mux(pictures.encode(picture))
            container.mux(pictures.encode(None))
        for stream, layout, waveform in zip(streams, layouts, waveforms, strict=True):
            # Side by side: PyAV itself crashes on planes of eight channels.
            packed = _PLANAR[waveform.dtype.name].removesuffix("p")
            frame = av.AudioFrame.from_ndarray(waveform.reshape(1, -1), format=packed, layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
            # To the encoder's own sample format; integers keep their values, since none is made narrower.
            converter = av.AudioResampler(format=stream.format.name, layout=layout, rate=sample_rate)
            for converted in (*converter.resample(frame), *converter.resample(None)):
                container.mux(stream.encode(converted))
            container.mux(stream.encode(None))
    return path


def read(path: Path | str, length: int = 4096, **stretch: float) -> np.ndarray:
    """What the reader gives of a file, block by block."""
    with AudioReader(path, **stretch) as reader:
        return np.concatenate(list(reader.blocks(length)))


def lag(audio: np.ndarray, source: np.ndarray) -> int:
    """By how many frames `audio` comes later than `source`: the peak of their cross-correlation."""
    size = 1 << (len(audio) + len(source)).bit_length()
    spectrum = np.fft.rfft(audio[:, 0], size) * np.conj(np.fft.rfft(source[:, 0], size))
    place = int(np.argmax(np.fft.irfft(spectrum, size)))
    return place if place < size // 2 else place - size
