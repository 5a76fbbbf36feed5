"""How long BSS Eval v4 takes, ours and museval's side by side, and how much memory a long track takes.

`python -m jaxsep.compare.evaluate_speed --output FILE.json`: four real stems, in turn, A B A B ..., so that what else
the machine does falls on both; ratios are taken pair by pair.
"""

import argparse
import datetime
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.audio import AudioReader
from jaxsep.compare import load
from jaxsep.compare.song import excerpt
from jaxsep.environment import peak_memory_bytes, processor, processors, versions
from jaxsep.metrics.bss_eval import bss_eval, bss_eval_streamed
from jaxsep.metrics.frame_scores import METRICS
from jaxsep.metrics.museval_wrapper import museval_scores

_STEMS = ("drums", "bass", "other", "vocals")
_BLOCK = 1 << 17


def real_stems(seconds: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int]:
    """Returns true stems, estimates and the sample rate: the excerpt in 16 bits, as often as it takes.

    The estimates are the true stems with a tenth of the mixture and noise 60 dB below full scale.
    """
    parts = {}
    for stream, stem in enumerate(_STEMS, start=1):
        with AudioReader(excerpt(), stream=stream) as reader:
            once = np.concatenate(list(reader.blocks(_BLOCK))).astype(np.float64)
            rate = reader.info.sample_rate
        parts[stem] = np.round(np.resize(once, (round(seconds * rate), once.shape[1])) * 32768) / 32768
    mixture = np.sum(list(parts.values()), axis=0)
    rng = np.random.default_rng(0)
    estimates = {
        stem: 0.9 * waveform + 0.1 * mixture + 1e-3 * rng.normal(size=waveform.shape)
        for stem, waveform in parts.items()
    }
    return parts, estimates, rate


def compare(seconds: float, runs: int) -> dict[str, Any]:
    """Scores one track by both, in turn, and returns times and how far the scores lie apart.

    Args:
        seconds: Length of the track.
        runs: Counted pairs of runs; none is thrown away, since nothing is compiled.
    """
    references, estimates, rate = real_stems(seconds)
    seconds_of: dict[str, list[dict[str, float]]] = {"jaxsep": [], "museval": []}
    difference, during = 0.0, []
    for _ in range(runs):
        scores = {}
        for name, function in (("jaxsep", bss_eval), ("museval", museval_scores)):
            wall, cpu = time.perf_counter(), time.process_time()
            scores[name] = function(references, estimates, sample_rate=rate)
            seconds_of[name].append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})
        during.append(load.load_average())
        difference = max(
            float(np.nanmax(np.abs(getattr(scores["jaxsep"], metric) - getattr(scores["museval"], metric))))
            for metric in METRICS
        )
    return {
        "stems": list(_STEMS),
        "seconds": seconds,
        "runs": seconds_of,
        "median_wall_seconds": {
            name: statistics.median(run["wall"] for run in measured) for name, measured in seconds_of.items()
        },
        "steadiness": {
            name: load.steadiness([[run["wall"]] for run in measured]) for name, measured in seconds_of.items()
        },
        "load_during": load.largest(during),
        "museval_over_jaxsep": {
            kind: statistics.median(
                theirs[kind] / ours[kind]
                for ours, theirs in zip(seconds_of["jaxsep"], seconds_of["museval"], strict=True)
            )
            for kind in ("wall", "cpu")
        },
        "largest_difference_db": difference,
    }


def long_track(seconds: float) -> dict[str, float]:
    """Scores four stems of noise that are never in memory as a whole."""
    rate = 44100

    def stretches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(0)
        for first in range(0, round(seconds * rate), _BLOCK):
            noise = rng.random((2, 4, min(_BLOCK, round(seconds * rate) - first), 2), np.float32) - 0.5
            yield noise[0], noise[0] + 0.1 * noise[1]

    started, before = time.perf_counter(), peak_memory_bytes() or 0
    bss_eval_streamed(stretches, _STEMS, sample_rate=rate)
    return {
        "seconds": seconds,
        "wall_seconds": time.perf_counter() - started,
        "peak_memory_bytes_before": before,
        "peak_memory_bytes": peak_memory_bytes() or 0,
    }


def main() -> None:
    """Measures and writes the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--long-seconds", type=float, default=3600.0, help="0 leaves the long track out")
    options = parser.parse_args()
    before = load.load_average()
    # First, so that its peak of memory is its own.
    long = long_track(options.long_seconds) if options.long_seconds else None
    both = compare(options.seconds, options.runs)
    steady = [load.row_of(name, each) for name, each in both["steadiness"].items()]
    result: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": processors(),
        # Threads of numpy's and scipy's BLAS, of both; None for as many as there are cores.
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS"),
        "load_average": load.verdict(before, [both["load_during"]], processors(), steady),
        "versions": versions(),
        "long_track": long or "not run",
        "side_by_side": both,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(load.in_words(result["load_average"]))
    print(
        f"museval takes {both['museval_over_jaxsep']['wall']:.1f} times as long as jaxsep "
        f"({both['museval_over_jaxsep']['cpu']:.1f} times the CPU's); largest difference "
        f"{both['largest_difference_db']:.1e} dB"
    )


if __name__ == "__main__":
    main()
