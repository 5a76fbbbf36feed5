"""Commands in odd environments: a result, or one sentence and another status; nothing half-written either way."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from fuzz.environments import Environment
from fuzz.mutations import case_count
from weights.small_models import small_spec, small_variables

CASES = 60
SECONDS = 60
# OpenBLAS, which NumPy loads, ends a process by itself where there is no memory for its threads.
TELLING = ("jaxsep: ", "Usage:", "Error", "OpenBLAS error")
SCRIPT = Path(sys.executable).with_name("jaxsep")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A song and a model that computes next to nothing, by absolute paths: the working directory may be gone."""
    from jaxsep.weights.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("inputs")
    soundfile.write(folder / "song.wav", np.random.default_rng(0).standard_normal((4410, 2)) * 0.1, 44100)
    (folder / "text.wav").write_text("no audio")
    spec = small_spec(sample_rate=44100)
    save_checkpoint(folder / "model.safetensors", spec, jax.tree.map(np.abs, small_variables(spec)))
    return folder


def commands(inputs, out):
    separate = ["separate", f"{inputs}/song.wav", "-m", f"{inputs}/model.safetensors", "-o", f"{out}/stems"]
    return [
        separate,
        [*separate, f"{inputs}/text.wav"],
        [*separate, "--quiet", "--report", f"{out}/report.json"],
        [*separate, "--format", "ogg", "-"],
        ["info", f"{inputs}/model.safetensors"],
        ["models"],
        ["--version"],
        ["separate", "--help"],
        ["separate", f"{inputs}/nothing.wav", "--bitrate", "1"],
        ["models", "pull", "no-such-model"],
    ]


def run(environment, command, place):
    """Returns the status, and what came on standard error if there was one."""
    base = {**os.environ, "PYTHONPATH": str(ROOT), "JAXSEP_CACHE": str(place.parent / "cache")}
    done = subprocess.run(
        environment.launched([str(SCRIPT), *command]),
        cwd=place,
        env=base,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
    )
    return done.returncode, done.stderr.decode(errors="replace")


def check(environment, command, place, out, outcomes):
    status, errors = run(environment, command, place)
    told = f"{command} in {environment} ended with {status}:\n{errors[-3000:]}"
    assert status in (0, 1, 2), told
    assert "Traceback" not in errors, told
    left = [str(path) for path in [*out.rglob("*"), *place.rglob("*")] if path.is_file()]
    assert not [path for path in left if path.endswith((".part", "~")) or "/.stems." in path], f"{told}\n{left}"
    stems = [path for path in left if path.endswith((".wav", ".ogg"))]
    assert len(stems) in (0, 2, 4), f"{told}\n{left}"
    assert all(soundfile.info(path).frames == 4410 for path in stems), told
    is_read = 2 not in environment.descriptors
    if status and is_read:
        sentences = [line for line in errors.splitlines() if line.startswith(TELLING)]
        assert sentences, told
    if status == 0 and command[0] == "separate" and "--help" not in command:
        assert len(stems) == 2, f"{told}\n{left}"
    outcome = "refused" if status else "result"
    outcomes[outcome] = outcomes.get(outcome, 0) + 1


def test_commands_end_with_a_result_or_a_sentence_in_odd_environments(inputs, tmp_path, record_property):
    outcomes = {}
    for seed in range(case_count(CASES)):
        rng = np.random.default_rng([seed, 15])
        place, out = tmp_path / f"place{seed}", tmp_path / f"out{seed}"
        place.mkdir()
        out.mkdir()
        choices = commands(inputs, out)
        check(Environment.drawn(rng), choices[rng.integers(len(choices))], place, out, outcomes)
    record_property("fuzz", outcomes)
    assert outcomes["result"] > 0 and outcomes["refused"] > 0
