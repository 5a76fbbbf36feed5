"""`python -m train` in real processes, for the tests of whole runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "smoke.yaml"
# A row for every step, no pictures; validation and saves as a test wants them.
PLAIN = ("logging.every_steps=1", "logging.tensorboard=false", "validation.every_steps=null")
# Two layers for the recipe's three: where a test is about runs and not about networks, tracing and computing them is
# what it waits for.
SHALLOW = "model.config.filters=[4, 8]"


def environment(cache: Path, devices: int = 1) -> dict[str, str]:
    return {**os.environ, "JAXSEP_CACHE": str(cache), "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}


def start(
    workdir: Path,
    *overrides: str,
    cache: Path,
    devices: int = 1,
    options: tuple[str, ...] = (),
    recipe: Path = SMOKE,
    program: tuple[str, ...] = ("-m", "train"),
) -> subprocess.Popen[str]:
    command = [sys.executable, *program, str(recipe), *overrides, "--workdir", str(workdir), *options]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(cache, devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(workdir: Path, *overrides: str, status: int = 0, **options: Any) -> tuple[str, str]:
    """Runs to the end and returns what was printed."""
    process = start(workdir, *overrides, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, f"status {process.returncode}\n{out}\n{err}"
    return out, err


def rows(workdir: Path) -> list[dict[str, Any]]:
    """Returns what a run told, but for how long things took."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{key: value for key, value in row.items() if key != "timing"} for row in parsed]


def count_rows(workdir: Path) -> int:
    """Returns how many rows a run has told. Cheap: parsing them a thousand times a second takes a core from the run."""
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
