"""Pictures of spectrograms, as PNG, made with numpy alone."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from jaxsep.typing import HostWaveform

Picture = UInt8[np.ndarray, "height width rgb"]

# What is shown below the loudest point of all pictures; and sizes in samples and pixels.
RANGE_DB = 80.0
_N_FFT, _LARGEST_WIDTH = 1024, 800


def spectrogram_pictures(waveforms: Sequence[HostWaveform]) -> list[Picture]:
    """Returns a picture of each waveform, low frequencies at the bottom, all on one scale: 80 dB below the loudest.

    Args:
        waveforms: Of one length.
    """
    levels = [_levels_db(waveform) for waveform in waveforms]
    top = max(level.max() for level in levels)
    return [colours((level.T[::-1] - top) / RANGE_DB + 1) for level in levels]


def colours(brightness: Float[np.ndarray, "height width"]) -> Picture:
    """Returns colours that are as bright as asked, from black (0) to white (1): D. A. Green's 'cubehelix' (2011)."""
    brightness = np.clip(brightness, 0, 1)[..., None]
    angle = 2 * np.pi * (0.5 / 3 + 1 - 1.5 * brightness)
    # Both directions leave the perceived brightness, 0.30 R + 0.59 G + 0.11 B, as it is.
    cosine, sine = np.array([-0.14861, -0.29227, 1.97294]), np.array([1.78277, -0.90649, 0.0])
    rgb = brightness + brightness * (1 - brightness) / 2 * (cosine * np.cos(angle) + sine * np.sin(angle))
    return np.round(255 * np.clip(rgb, 0, 1)).astype(np.uint8)


def encode_png(picture: Picture) -> bytes:
    """Returns a picture as a PNG file (ISO/IEC 15948)."""
    height, width, _ = picture.shape
    # Before each row, which of five predictions it is the difference to: none.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _levels_db(waveform: HostWaveform) -> Float[np.ndarray, "frame freq"]:
    """The level in each frame and bin, channels averaged; a frame for each column of the picture."""
    padded = np.pad(waveform, [(0, max(_N_FFT - len(waveform), 0)), (0, 0)])
    frames = min(1 + (len(padded) - _N_FFT) // (_N_FFT // 4), _LARGEST_WIDTH)
    starts = np.linspace(0, len(padded) - _N_FFT, frames).astype(int)
    window = np.hanning(_N_FFT + 1)[:-1, None]
    spectrum = np.fft.rfft(np.stack([padded[start : start + _N_FFT] * window for start in starts]), axis=1)
    return 10 * np.log10(np.square(np.abs(spectrum)).mean(axis=2) + 1e-12)
