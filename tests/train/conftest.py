"""Data sets of real audio in every layout: stempeg's excerpt of a MUSDB18 song, decoded by PyAV itself."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from train.config import RunConfig, load_config

# A small network for audio at 44.1 kHz; segments of 64 frames, 0.1 s.
RECIPE = """
model:
  name: small
  family: unet
  config: {n_sources: 2, channels: 2, bins: 64, filters: [8, 16, 32], dropout: 0.0}
  stems: [vocals, accompaniment]
  sample_rate: 44100
  channels: 2
  domain:
    kind: magnitude
    stft: {n_fft: 256, hop_length: 64}
    masks: {kind: ratio}
  procedure:
    cutting: {chunk_length: 4288, chunk_hop: 4096}
data: {threads: 2}
loss: {terms: [{kind: magnitude_l1}]}
training: {steps: 20, batch_size: 4}
"""
STREAMS = ("mixture", "drums", "bass", "other", "vocals")
# Of musdb's own list of tracks to validate on.
MUSDB_VALIDATION = "Leaf - Summerghost"


@pytest.fixture(scope="session")
def stem_mp4() -> Path:
    """A real .stem.mp4, found without importing stempeg, which fails where ffmpeg's programs are missing."""
    found = importlib.util.find_spec("stempeg")
    assert found is not None and found.submodule_search_locations
    (path,) = (Path(found.submodule_search_locations[0]) / "data").glob("*.stem.mp4")
    return path


@pytest.fixture(scope="session")
def song(stem_mp4: Path) -> dict[str, np.ndarray]:
    """Its streams, (time, channel), float32, full scale at 1."""
    streams = {}
    for number, name in enumerate(STREAMS):
        with av.open(str(stem_mp4)) as container:
            frames = [frame.to_ndarray().T for frame in container.decode(audio=number)]
        streams[name] = np.concatenate(frames)
    return streams


@pytest.fixture(scope="session")
def song_int16(song: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sources at a quarter of their level in 16 bits, and the mixture as their sum."""
    sources = {name: np.rint(song[name] * 2**13).astype(np.int16) for name in STREAMS[1:]}
    mixture = np.sum([source.astype(np.int64) for source in sources.values()], axis=0)
    assert np.abs(mixture).max() < 2**15
    return {"mixture": mixture.astype(np.int16), **sources}


@pytest.fixture
def musdb18(tmp_path: Path, stem_mp4: Path) -> Path:
    """MUSDB18 with two tracks, one of them of musdb's validation split, and a folder 'test' that nothing may read."""
    for split, name in (("train", "The Easton Ellises - Falcon 69"), ("train", MUSDB_VALIDATION), ("test", "Secret")):
        folder = tmp_path / "musdb18" / split
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(stem_mp4, folder / f"{name}.stem.mp4")
    return tmp_path / "musdb18"


@pytest.fixture
def musdb18hq(tmp_path: Path, song_int16: dict[str, np.ndarray]) -> Path:
    """MUSDB18-HQ, likewise."""
    for track in ("train/ANiMAL - Rockshow", "train/Falcon 69", "test/Secret"):
        write_track(tmp_path / "musdb18hq" / track, song_int16)
    return tmp_path / "musdb18hq"


@pytest.fixture
def folders(tmp_path: Path, song_int16: dict[str, np.ndarray]) -> Path:
    """Three tracks of wav files in 16 bits, one of them in the folder 'valid'; each is the song begun elsewhere."""
    for number, track in enumerate(("train/first", "train/second", "valid/third")):
        later = {name: np.roll(audio, 10000 * number, axis=0) for name, audio in song_int16.items()}
        write_track(tmp_path / "folders" / track, later)
    return tmp_path / "folders"


def write_track(folder: Path, parts: dict[str, np.ndarray], sample_rate: int = 44100, ending: str = "wav") -> None:
    """Writes a file for each part; in 16 bits what is int16, else in float."""
    if ending in ("mp3", "ogg"):  # whose encoder in libsndfile 1.2 takes integers for another scale
        parts = {name: audio / np.float32(2**15) for name, audio in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, audio in parts.items():
        subtype = {"wav": "PCM_16" if audio.dtype == np.int16 else "FLOAT", "flac": "PCM_16"}.get(ending)
        soundfile.write(folder / f"{name}.{ending}", audio, sample_rate, subtype=subtype)


@pytest.fixture
def config_for(tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes the config of a run for the data set at a root; None for synthetic tracks."""
    recipe = tmp_path / "small.yaml"

    def config_of(root: Path | None, *overrides: str) -> RunConfig:
        recipe.write_text(RECIPE)
        place = "data.layout=synthetic" if root is None else f"data.root={root}"
        return load_config(recipe, [place, *overrides])

    return config_of


@pytest.fixture
def write() -> Callable[..., Any]:
    return write_track
