"""Real music to measure with: the excerpt that stempeg ships, and a wav file of any length made of it.

`python -m jaxsep.compare.song SECONDS FILE.wav`
"""

import importlib.util
import sys
from pathlib import Path

from jaxsep.audio import AudioWriter, read_audio
from jaxsep.errors import AudioError


def excerpt() -> Path:
    """Returns the six-second excerpt of a MUSDB18 song that the package stempeg ships.

    The package is looked up and not imported: importing it fails where ffmpeg's executables are missing, which nothing
    here needs.
    """
    found = importlib.util.find_spec("stempeg")
    if found is None or not found.submodule_search_locations:
        raise AudioError("The excerpt comes with the package stempeg, which is not installed; run `make demo`.")
    return next(Path(found.submodule_search_locations[0]).glob("data/*.stem.mp4"))


def write_song(seconds: float, path: Path) -> None:
    """Writes a stereo wav file at 44.1 kHz, 16 bits; does nothing if it is there.

    Args:
        seconds: Its length.
        path: The file.
    """
    if path.exists():
        return
    once, rate = read_audio(excerpt())
    missing = round(seconds * rate)
    with AudioWriter(path, sample_rate=rate, channels=once.shape[1], format="wav", subtype="PCM_16") as writer:
        while missing:
            writer.write(once[:missing])
            missing -= min(missing, len(once))


if __name__ == "__main__":
    write_song(float(sys.argv[1]), Path(sys.argv[2]))
