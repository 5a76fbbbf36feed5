"""What Spleeter 2.4.2 on TensorFlow gave for the signals of the parity tests (see `make_reference.py`), and real music.

How near to it can one come? With masks, to some -100 dB of the mixture: the float32 FFT of TensorFlow 2.12 is off by
7e-6 on a CPU (numpy's by 1e-7), and its stems sum to the mixture to -102 dB only, where an accurate transform with the
same network reaches -138 dB. With the Wiener filter, to `WIENER_FLOOR_DB`.

Import from any test as `from parity.spleeter_reference.load import reference`: pytest puts `tests/` on the path for
the sake of its conftest.py.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import av
import numpy as np
import soundfile
from parity.signals import SAMPLE_RATE, SIGNALS

HERE = pathlib.Path(__file__).parent
EXCERPT = "The Easton Ellises - Falcon 69.stem.mp4"
EXCERPT_STREAMS = ("mixture", "drums", "bass", "other", "vocals")

Mode = Literal["masks", "wiener"]
STEMS = ("vocals", "accompaniment")

# By how much Spleeter's Wiener filter, in float32 with nearly singular covariances, differs from norbert in float64 on
# the same magnitudes, in dB of the mixture, the worse stem: no port can be asked for more. norbert in float32 is 2 to
# 4 dB worse. A mono mixture is the hardest: nothing but norbert's regularisation makes its covariances regular.
WIENER_FLOOR_DB = {
    "short_song": -66,
    "long_song": -77,
    "one_segment": -78,
    "one_sample_more": -77,
    "mono_song": -55,
    "shorter_than_a_frame": -60,
    "excerpt": -72,
}

# Two builds of FFmpeg decode the excerpt's AAC to floats that differ by up to 1.8e-7 (5.1 of Debian against the one in
# PyAV 18, on x86-64), a unit in the last place or two near full scale. Other processors have other assembly: five times
# that.
DECODE_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Reference:
    """Spleeter's output for one signal in one mode.

    Attributes:
        mixture: What was separated, float32 (time, channel).
        frames: Where the output was kept: the numbers of all frames, or of some 4000 of them.
        stems: The output at those frames, float32 (frame, 2) by stem.
        rounding: The most by which a value here differs from the one that Spleeter gave.
        peak: Greatest magnitude in the whole output, by stem.
        rms_per_second: Level of every started second of the whole output, float64 (second, 2) by stem.
        seconds: Spleeter's wall time, loading included.
    """

    mixture: np.ndarray
    frames: np.ndarray
    stems: Mapping[str, np.ndarray]
    rounding: float
    peak: Mapping[str, float]
    rms_per_second: Mapping[str, np.ndarray]
    seconds: float

    def difference_db(self, estimates: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns by how much estimates differ from Spleeter's: root mean square relative to the mixture's, in dB.

        Args:
            estimates: By stem, (time, 2) for the whole mixture.
        """
        level = np.sqrt(np.mean(np.square(self.mixture.astype(np.float64))))
        differences = {}
        for stem in STEMS:
            estimate = np.asarray(estimates[stem], np.float64)
            assert estimate.shape == (len(self.mixture), 2), f"{stem} has the shape {estimate.shape}"
            difference = np.sqrt(np.mean(np.square(estimate[self.frames] - self.stems[stem])))
            differences[stem] = 20 * math.log10(difference / level) if difference else -math.inf
        return differences


@functools.cache
def record() -> dict[str, Any]:
    """Returns reference.json: versions, hashes, levels and scores."""
    return json.loads((HERE / "reference.json").read_text())


@functools.cache
def mixture(signal: str) -> np.ndarray:
    """Returns a signal of `parity.signals` or the excerpt's mixture, once it is known to be what Spleeter separated."""
    if signal == "excerpt":
        return excerpt()["mixture"]
    waveform = SIGNALS[signal]()
    digest = hashlib.sha256(waveform.tobytes()).hexdigest()
    assert digest == record()["signals"][signal]["sha256"], f"{signal} is not the signal of the reference"
    waveform.setflags(write=False)
    return waveform


@functools.cache
def reference(signal: str, mode: Mode) -> Reference:
    """Returns Spleeter's output for a signal.

    Args:
        signal: A key of `parity.signals.SIGNALS`, or 'excerpt'.
        mode: 'masks' (Spleeter's default) or 'wiener' (its MWF option).
    """
    heard = mixture(signal)
    entry = record()["signals"][signal]["modes"][mode]
    arrays = _arrays()
    frames, rounding = np.arange(len(heard)), 0.0
    if (HERE / f"{signal}.{mode}.vocals.flac").exists():
        stems = {stem: soundfile.read(HERE / f"{signal}.{mode}.{stem}.flac", dtype="float32")[0] for stem in STEMS}
        rounding = {"masks": 2.0**-24, "wiener": 2.0**-20}[mode]
    else:
        stems = {stem: arrays[f"{signal}/{mode}/{stem}"] for stem in STEMS}
        frames = arrays.get(f"{signal}/indices", frames)
    return Reference(
        mixture=heard,
        frames=frames,
        stems=stems,
        rounding=rounding,
        peak={stem: entry["stems"][stem]["peak"] for stem in STEMS},
        rms_per_second={stem: np.array(entry["stems"][stem]["rms_per_second"]) for stem in STEMS},
        seconds=entry["seconds"],
    )


@functools.cache
def excerpt() -> Mapping[str, np.ndarray]:
    """Returns six seconds of a MUSDB track that stempeg ships, with its true sources, float32 (time, 2) by name.

    The names are those of `EXCERPT_STREAMS` and 'accompaniment', the sum of all but the vocals. stempeg is found but
    not imported, because it raises where the programs ffmpeg and ffprobe are missing.
    """
    path = excerpt_path()
    entry = record()["signals"]["excerpt"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["file_sha256"], (
        f"not the file of the reference: {path}"
    )
    tracks = {name: _decode(path, number) for number, name in enumerate(EXCERPT_STREAMS)}
    tracks["accompaniment"] = tracks["drums"] + tracks["bass"] + tracks["other"]
    arrays = _arrays()
    assert len(tracks["mixture"]) == entry["frames"]
    difference = np.max(np.abs(tracks["mixture"][arrays["excerpt/indices"]] - arrays["excerpt/mixture"]))
    assert difference <= DECODE_TOLERANCE, f"this machine decodes the excerpt {difference} away from the reference"
    return tracks


def excerpt_path() -> pathlib.Path:
    """Returns the file inside the installed stempeg."""
    package = importlib.util.find_spec("stempeg")
    assert package is not None and package.submodule_search_locations, "stempeg is not installed: pip install musdb"
    return pathlib.Path(package.submodule_search_locations[0]) / "data" / EXCERPT


def _decode(path: pathlib.Path, stream: int) -> np.ndarray:
    with av.open(str(path)) as container:
        track = container.streams.audio[stream]
        assert track.rate == SAMPLE_RATE
        return np.ascontiguousarray(np.concatenate([part.to_ndarray() for part in container.decode(track)], axis=1).T)


@functools.cache
def _arrays() -> dict[str, np.ndarray]:
    with np.load(HERE / "reference.npz") as stored:
        return dict(stored)
