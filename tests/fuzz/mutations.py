"""Seeded damage to files, and the process that reads what was damaged: it may die without taking the tests with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

WORKER = Path(__file__).with_name("worker.py")
# Near the ends of what fields of one to eight bytes hold, and what a length or count may wrongly be.
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)


def case_count(usual: int) -> int:
    """How many cases of a kind are run; JAXSEP_FUZZ_CASES in the environment says otherwise."""
    return int(os.environ.get("JAXSEP_FUZZ_CASES", usual))


def mutate(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Returns damaged data, and what was done to it."""
    kind = rng.choice(["cut", "flip", "lie", "splice", "zero", "grow"])
    size = len(data)
    if not data:
        return rng.bytes(16), "filled"
    if kind == "cut":
        return data[: rng.integers(size)], kind
    if kind == "grow":
        return data + (data if rng.random() < 0.5 else rng.bytes(int(rng.integers(1, 5000)))), kind
    damaged = bytearray(data)
    # Headers decide more than what follows them.
    head = min(size, 256) if rng.random() < 0.7 else size
    for _ in range(rng.integers(1, 9)):
        place = int(rng.integers(head))
        if kind == "flip":
            damaged[place] ^= 1 << int(rng.integers(8))
        elif kind == "lie":
            width = int(rng.choice([1, 2, 4, 8]))
            value = int(rng.choice(len(INTERESTING)))
            lie = (INTERESTING[value] % 256**width).to_bytes(width, rng.choice(["little", "big"]))
            damaged[place : place + width] = lie
            del damaged[size:]
        elif kind == "zero":
            length = int(rng.integers(1, 64))
            damaged[place : place + length] = bytes(min(length, size - place))
        else:
            start, length = int(rng.integers(size)), int(rng.integers(1, 200))
            damaged[place:place] = data[start : start + length]
    return bytes(damaged), kind


def run_cases(kind: str, cases: list[tuple[str, Path]], *, whole: Path | None = None) -> dict[str, int]:
    """Has a process read every case, and returns how often each outcome came.

    Args:
        kind: What the worker does with each; see worker.py.
        cases: What was done to the file, for the message, and the file.
        whole: The undamaged file, where damage must not give anything else than it does.

    Raises:
        AssertionError: A case ended the process, took too long or too much memory, or raised what is no error of ours.
    """
    outcomes: dict[str, int] = {}
    cases = [("undamaged", whole), *cases] if whole is not None else cases
    begun, digest = 0, None
    while begun < len(cases):
        # One process for all, and another one after a death, so that all deaths are told.
        process = subprocess.run(
            [sys.executable, str(WORKER), kind],
            input="\n".join(str(path) for _, path in cases[begun:]),
            capture_output=True,
            text=True,
        )
        lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
        for line in lines:
            what, path = cases[begun]
            assert line["outcome"] in ("result", "refused"), f"{what} ({path}): {line}"
            if whole is not None and begun == 0:
                digest = line["digest"]
            assert digest is None or line.get("digest", digest) == digest, f"{what} ({path}) gave other values"
            outcomes[line["outcome"]] = outcomes.get(line["outcome"], 0) + 1
            begun += 1
        assert process.returncode == 0, (
            f"{cases[begun][0]} ({cases[begun][1]}) ended the process with {process.returncode}: "
            f"{process.stderr[-2000:]}"
        )
        assert lines, process.stderr
    return outcomes
