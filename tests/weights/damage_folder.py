"""Damages the files of a checkpoint folder one after the other and says what loading it gives. Run as a program.

A process of its own, since Orbax leaves unawaited coroutines behind where it fails, of which Python warns at any later
time.
"""

import json
import random
import sys
from pathlib import Path

import jax
import numpy as np

from jaxsep.errors import CheckpointError
from jaxsep.weights.checkpoint import Checkpoint, load_checkpoint


def outcome(folder: Path, intact: Checkpoint) -> str:
    try:
        loaded = load_checkpoint(folder)
    except CheckpointError as error:
        return "refused" if "\n" not in str(error) else "several lines"
    except Exception as error:
        return f"raised {type(error).__name__}"
    same = jax.tree.all(jax.tree.map(np.array_equal, dict(loaded.variables), dict(intact.variables)))
    return "unchanged" if same and loaded.spec == intact.spec else "changed"


def main(folder: Path, trials: int) -> None:
    intact, rng = load_checkpoint(folder), random.Random(0)
    outcomes: dict[str, dict[str, int]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size):
        content = file.read_bytes()
        bits = [1 << rng.randrange(8) for _ in range(trials)]
        positions = [rng.randrange(len(content)) for _ in bits]
        damaged = [
            content[:i] + bytes([content[i] ^ bit]) + content[i + 1 :] for i, bit in zip(positions, bits, strict=True)
        ]
        damaged += [content[: len(content) * part // 3] for part in range(3)]
        counts: dict[str, int] = {}
        for version in damaged:
            file.write_bytes(version)
            result = outcome(folder, intact)
            counts[result] = counts.get(result, 0) + 1
        file.write_bytes(content)
        outcomes[str(file.relative_to(folder))] = counts
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
