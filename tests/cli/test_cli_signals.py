"""Ctrl-C and SIGTERM at random moments of a run over several files, on real processes."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli.conftest import SCRIPT, files, read, write_song

SONGS = ("a", "b", "c")
RUNS = 8


@pytest.fixture
def songs(place):
    return {name: len(write_song(f"music/{name}.wav", 1.0 + index)) for index, name in enumerate(SONGS)}


def test_a_run_stopped_at_a_random_moment_leaves_complete_stems_or_none(songs, monkeypatch, place):
    """Eight moments, from the first import to after the end; each file under a final name is whole, with its pair."""
    scratch = place / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    command = [SCRIPT, "separate", "music", "-o", "out"]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    whole_run = time.perf_counter() - started
    rng = random.Random(3)
    statuses = []
    for run in range(RUNS):
        for path in Path("out").rglob("*.wav"):
            path.unlink()
        options = ["--wiener"] if run % 4 == 3 else []
        process = subprocess.Popen([*command, "--overwrite", *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        # Not before Python has come to main: until then a signal is Python's own affair.
        moment = rng.uniform(0.15, 1.1) * whole_run
        time.sleep(moment)
        process.send_signal(rng.choice([signal.SIGINT, signal.SIGTERM]))
        _, errors = process.communicate(timeout=60)
        statuses.append(process.returncode)
        found = files("out")
        assert not [path for path in found if not path.endswith(".wav")], f"run {run} at {moment:.3f} s: {found}"
        for song, frames in songs.items():
            stems = [path for path in found if path.startswith(f"{song}/")]
            assert len(stems) in (0, 2), f"run {run} at {moment:.3f} s: {found}"
            assert all(len(read(Path("out", path))) == frames for path in stems)
        assert process.returncode in (0, 130), f"run {run} at {moment:.3f} s: {process.returncode} {errors!r}"
        if process.returncode == 130:
            assert errors.decode().splitlines()[-1] == "jaxsep: interrupted"
        else:
            assert len(found) == 2 * len(songs)
        assert files(scratch) == [], f"run {run} at {moment:.3f} s"
    # The moments are worth something only if many of them hit the work.
    assert statuses.count(130) >= RUNS // 2
