"""`make demo`: separates a real song's excerpt with the bundled weights and says where the stems are and how good."""

import sys
from pathlib import Path

import av
import numpy as np

from jaxsep.audio import read_audio
from jaxsep.compare.song import excerpt
from jaxsep.errors import JaxsepError

DIRECTORY = Path("demo")


def true_stems(path: Path) -> dict[str, np.ndarray]:
    """Returns the excerpt's true stems (time, channel): its vocals, and the sum of all others as the accompaniment.

    Args:
        path: A .stem.mp4: the mixture, drums, bass, other and vocals as audio streams in this order.
    """
    drums, bass, other, vocals = (_decode(path, stream) for stream in range(1, 5))
    return {"vocals": vocals, "accompaniment": drums + bass + other}


def main() -> int:
    """Separates the excerpt through the command line's own code and compares the stems with the true ones."""
    from jaxsep.cli.separate import separate
    from jaxsep.metrics.sdr import global_sdr

    song = excerpt()
    # The first of its tracks is the mixture, the others are true stems.
    if status := separate([str(song)], output=DIRECTORY, audio_track=1, overwrite=True):
        return status
    mixture = _decode(song, 0)
    print(f"{'SDR against the true stems':28} {'mixture':>10} {'separated':>10}")
    for stem, true in true_stems(song).items():
        estimate, _ = read_audio(DIRECTORY / song.stem / f"{stem}.wav")
        before, after = global_sdr(true, mixture), global_sdr(true, estimate)
        print(f"{stem:28} {before:7.2f} dB {after:7.2f} dB")
    return 0


def _decode(path: Path, stream: int) -> np.ndarray:
    with av.open(path) as container:
        blocks = [frame.to_ndarray().T for frame in container.decode(audio=stream)]
    return np.concatenate(blocks).astype(np.float32)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except JaxsepError as error:
        sys.exit(f"demo: {error}")
