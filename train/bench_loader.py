"""How long a step of a recipe waits for its examples, and how many the loader could give were it never waited for.

`python -m train.bench_loader --output FILE.json`: writes tracks of four stems, prepares them as `python -m
train.prepare` does, trains some steps of a recipe on them in a process of its own, and reads what the run told.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from jaxsep.environment import processor, versions
from train.config import DataConfig, load_config
from train.input_pipeline import Pipeline
from train.prepare import prepare
from train.tracks import find_tracks

ROOT = Path(__file__).parents[1]
# As MUSDB18-HQ has them.
STEMS, SAMPLE_RATE, TRACKS, TRACK_SECONDS = ("vocals", "drums", "bass", "other"), 44100, 8, 60
# The first step compiles; the one after it is told one step late.
_WARM_UP = 2


def write_tracks(folder: Path, *, tracks: int, seconds: float, seed: int = 0) -> None:
    """Writes tracks of noise in 16 bits: as many bytes as music has, and what is in them does not matter.

    Args:
        folder: Where; created, with a folder for each track.
        tracks: How many.
        seconds: Length of each.
        seed: Of the noise.
    """
    rng = np.random.default_rng(seed)
    for track in range(tracks):
        (folder / f"track {track}").mkdir(parents=True)
        for stem in STEMS:
            noise = rng.integers(-3000, 3000, (round(seconds * SAMPLE_RATE), 2), dtype=np.int16)
            soundfile.write(folder / f"track {track}" / f"{stem}.wav", noise, SAMPLE_RATE)


def examples_per_second(recipe: Path, overrides: list[str], *, batches: int) -> float:
    """Returns how many examples the loader gives in a second where nothing else is done.

    Args:
        recipe: Whose examples.
        overrides: Of the recipe.
        batches: That are read, after the first one.
    """
    config = load_config(recipe, [*overrides, f"training.steps={batches + 1}"])
    iterator = Pipeline(config, find_tracks(config.data, config.model).train).batches()
    next(iterator)
    began = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    seconds = time.perf_counter() - began
    iterator.close()
    return batches * config.training.batch_size / seconds


def measure(recipe: Path, *, steps: int, batches: int, seconds: float = TRACK_SECONDS) -> dict[str, Any]:
    """Trains and reads, and returns what was found, ready for JSON.

    Args:
        recipe: What is trained.
        steps: That count, after those that compile.
        batches: That the loader alone reads.
        seconds: Length of each track.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, workdir = Path(folder) / "prepared", Path(folder) / "run"
        write_tracks(Path(folder) / "tracks", tracks=TRACKS, seconds=seconds)
        prepare(DataConfig(root=str(Path(folder) / "tracks")), root)
        overrides = [f"data.root={root}", "data.layout=prepared", "validation.every_steps=null"]
        run = [f"training.steps={steps + _WARM_UP}", "logging.every_steps=1", "logging.tensorboard=false"]
        command = [sys.executable, "-m", "train", str(recipe), "--workdir", str(workdir), *overrides, *run]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line)["timing"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        rows = rows[_WARM_UP:]
        rate = examples_per_second(recipe, overrides, batches=batches)
    seconds_per_step, waited = (
        statistics.fmean(row[key] for row in rows) for key in ("seconds_per_step", "loader_wait_seconds")
    )
    batch_size = load_config(recipe, ["data.root=nowhere"]).training.batch_size
    return {
        "recipe": recipe.stem,
        "steps": len(rows),
        "batch_size": batch_size,
        "seconds_per_step": seconds_per_step,
        "device_seconds": statistics.fmean(row["device_seconds"] for row in rows),
        "loader_wait_seconds": waited,
        "loader_wait_share": waited / seconds_per_step,
        "loader_alone_examples_per_second": rate,
        # Steps faster than this would wait for data.
        "loader_alone_seconds_per_step": batch_size / rate,
    }


def main() -> None:
    """Measures and writes the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m train.bench_loader", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--recipe", default="unet_2stems", help="one of configs/, without ending")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batches", type=int, default=50, help="that the loader reads by itself")
    options = parser.parse_args()
    found = measure(ROOT / "configs" / f"{options.recipe}.yaml", steps=options.steps, batches=options.batches)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "train.bench_loader", *sys.argv[1:]]),
        "processor": processor(),
        "versions": versions(),
        **found,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    waited, step = 100 * found["loader_wait_share"], found["seconds_per_step"]
    print(
        f"{found['recipe']}: waited for data {waited:.2f} % of {step:.2f} s a step; "
        f"alone, the loader gives a batch every {found['loader_alone_seconds_per_step']:.3f} s"
    )


if __name__ == "__main__":
    main()
