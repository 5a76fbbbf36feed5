"""Small tracks on disk with true sources and estimates, for the tests of evaluation and its command."""

from pathlib import Path

import numpy as np
import soundfile

from jaxsep.evaluation.evaluate import estimates_on_disk, evaluate
from jaxsep.evaluation.scoring import Settings
from jaxsep.evaluation.tracks import find_folders

RATE = 4000


def noise(seconds: float, seed: int, channels: int = 1) -> np.ndarray:
    """Coloured noise in 16 bits, so that what is read is what was written."""
    white = np.random.default_rng(seed).normal(size=(round(seconds * RATE), channels))
    return np.round(3000 * (white + 0.5 * np.roll(white, 1, axis=0))) / 32768


def write(path: Path, waveform: np.ndarray, rate: int = RATE, subtype: str = "DOUBLE") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, subtype=subtype)


def write_track(
    folder: Path, name: str, sources: dict[str, np.ndarray], estimates: dict[str, np.ndarray] | None = None
) -> None:
    """Writes true/NAME/STEM.wav and est/NAME/STEM.wav."""
    for stem, waveform in sources.items():
        write(folder / "true" / name / f"{stem}.wav", waveform, subtype="PCM_16")
    for stem, waveform in (estimates or {}).items():
        write(folder / "est" / name / f"{stem}.wav", waveform)


def two_tracks(folder: Path) -> dict[str, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Writes two tracks of 3.5 seconds and returns what is in them."""
    made = {}
    for number, name in enumerate(("one", "two")):
        sources = {"vocals": noise(3.5, 10 * number), "drums": noise(3.5, 10 * number + 1)}
        estimates = {
            stem: np.float32(0.8 * waveform + 0.1 * (number + 1) * noise(3.5, 10 * number + 5)).astype(np.float64)
            for stem, waveform in sources.items()
        }
        write_track(folder, name, sources, estimates)
        made[name] = (sources, estimates)
    return made


def score(folder: Path, output: str = "out", stems=None, **options):
    """Scores est/ against true/ and returns the records by track, and what went wrong."""
    tracks = find_folders(folder / "true")
    system, source_set = estimates_on_disk(folder / "est", tracks, None, stems)
    settings = Settings(stems=source_set, **options.pop("settings", {}))
    records, failures = evaluate(tracks, [system], settings, folder / output, **options)
    return {record["jaxsep"]["track"]: record for record in records}, failures


def frames(record, stem: str, metric: str) -> list[float]:
    (target,) = [target for target in record["targets"] if target["name"] == stem]
    return [frame["metrics"][metric] for frame in target["frames"]]
