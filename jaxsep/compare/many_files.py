"""How much is gained by separating many short files in one process rather than in one process each, side by side.

`python -m jaxsep.compare.many_files --output FILE.json`: cuts clips from real music (song.py), separates all of them in
one process and a sample of them in a process each, by turns, with a warm compilation cache.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from jaxsep.audio import AudioWriter, read_audio
from jaxsep.compare import load
from jaxsep.compare.process_speed import run_command
from jaxsep.compare.song import write_song
from jaxsep.environment import processor, processors, versions

JAXSEP = shlex.quote(str(Path(sys.executable).with_name("jaxsep")))


def write_clips(directory: Path, *, count: int, seed: int) -> list[Path]:
    """Writes clips of 2 to 8 seconds of music, 16-bit wav, and returns their paths.

    Args:
        directory: Where; created.
        count: How many.
        seed: Of the lengths and places.
    """
    song = directory.parent / "song.wav"
    write_song(60, song)
    samples, rate = read_audio(song)
    rng = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        length = round(rng.uniform(2, 8) * rate)
        start = rng.integers(len(samples) - length)
        paths.append(directory / f"{number:03}.wav")
        with AudioWriter(paths[-1], sample_rate=rate, channels=2, format="wav", subtype="PCM_16") as writer:
            writer.write(samples[start : start + length])
    return paths


def main() -> None:
    """Measures and writes the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--sample", type=int, default=20, help="Files that get a process each, in every turn.")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    before, during = load.load_average(), []
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder) / "clips", count=options.files, seed=0)
        out, report = Path(folder) / "out", Path(folder) / "report.json"
        together = f"{JAXSEP} separate {folder}/clips -o {out} --overwrite --quiet --report {report}"
        run_command(f"{JAXSEP} separate {clips[0]} -o {out} --overwrite --quiet")  # fills the compilation cache
        in_one, alone, busy = [], [], []
        for turn in range(options.turns):
            run = run_command(together)
            in_one.append(run)
            files = json.loads(report.read_text())["files"]
            assert all(each["status"] == "done" for each in files)
            # What the run waited for the device, of all its time after the start.
            timings = [each["timings_seconds"] for each in files]
            busy.append(sum(each["compute"] for each in timings) / sum(each["total"] for each in timings))
            sample = clips[turn * options.sample :][: options.sample]
            started = time.perf_counter()
            for clip in sample:
                run_command(f"{JAXSEP} separate {clip} -o {out} --overwrite --quiet")
            alone.append((time.perf_counter() - started) / len(sample))
            during.append(load.load_average())
        per_file = [run.wall_seconds / options.files for run in in_one]
        ratio = statistics.median(single / shared for single, shared in zip(alone, per_file, strict=True))
        steady = {
            name: load.steadiness([[seconds] for seconds in turns])
            for name, turns in (("one_process", per_file), ("one_process_per_file", alone))
        }
        rows = [load.row_of(name, each) for name, each in steady.items()]
        result = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["python", "-m", "jaxsep.compare.many_files", *sys.argv[1:]]),
            "processor": processor(),
            "cores": processors(),
            "versions": versions(),
            "load_average": load.verdict(before, during, processors(), rows),
            "steadiness": steady,
            "files": options.files,
            "one_process": {
                "seconds_per_file": statistics.median(per_file),
                "peak_memory_bytes": max(run.peak_memory_bytes for run in in_one),
                "waited_for_the_device": statistics.median(busy),
            },
            "one_process_per_file": {"seconds_per_file": statistics.median(alone), "sampled_files": options.sample},
            "throughput_ratio": ratio,
        }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"one process: {statistics.median(per_file):.3f} s a file; one for each: {statistics.median(alone):.3f} s; "
        f"ratio {ratio:.2f}; waited for the device {100 * statistics.median(busy):.0f} % of the time"
    )
    print(load.in_words(result["load_average"]))


if __name__ == "__main__":
    main()
