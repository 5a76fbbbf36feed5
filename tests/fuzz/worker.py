"""Reads damaged files, one after another, each within a time and a memory; run as a process by `mutations.run_cases`.

For every path on standard input one line: the outcome is 'result' with a digest of what was read, 'refused' by an error
of jaxsep's, or what else came.
"""

import hashlib
import importlib
import json
import resource
import signal
import sys
from pathlib import Path

import numpy as np

from jaxsep.errors import JaxsepError

# On a machine that does other things besides; a case takes a few milliseconds.
SECONDS = 20
# Beyond what the process holds when its libraries are loaded. The files have up to a few hundred kilobytes.
MEMORY_BYTES = 512 << 20


def read_audio(path):
    from jaxsep.audio import AudioReader

    with AudioReader(path) as reader:
        frames = 0
        for block in reader.blocks(1 << 16):
            assert block.dtype == np.float32 and block.ndim == 2 and np.isfinite(block).all()
            frames += len(block)
            assert frames < 50_000_000, "far more audio than the file can hold"
        assert frames > 0
        assert reader.info.sample_rate > 0


def read_foreign(path):
    from jaxsep.weights.readers import read_weights

    return digest(read_weights(path))


def read_checkpoint(path):
    import flax.traverse_util

    from jaxsep.weights.checkpoint import load_checkpoint, read_spec

    spec = read_spec(path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.spec == spec
    leaves = flax.traverse_util.flatten_dict(checkpoint.variables, sep="/")
    return digest({**leaves, "spec": np.frombuffer(spec.model_dump_json().encode(), np.uint8)})


def read_spec(path):
    from jaxsep.models.spec import ModelSpec

    try:
        described = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise JaxsepError(f"No JSON: {type(error).__name__}.") from None
    ModelSpec.parse(described, where="the spec")


def digest(arrays):
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        found.update(f"{name} {array.dtype} {array.shape}".encode(errors="surrogateescape"))
        found.update(array.tobytes())
    return found.hexdigest()


NEEDED = {
    "audio": ["av", "soundfile", "jaxsep.audio"],
    "foreign": ["jaxsep.weights.readers"],
    "checkpoint": ["jax", "jaxsep.weights.checkpoint"],
    "orbax": ["orbax.checkpoint", "jax", "jaxsep.weights.checkpoint"],
    "spec": ["jaxsep.models.spec"],
}
KINDS = {
    "audio": read_audio,
    "foreign": read_foreign,
    "checkpoint": read_checkpoint,
    "orbax": read_checkpoint,
    "spec": read_spec,
}


def warm_up(kind):
    """Loads what the kind needs, and no more, so that it does not count."""
    for module in NEEDED[kind]:
        importlib.import_module(module)
    if "jax" in sys.modules:
        sys.modules["jax"].numpy.zeros(1)


def main():
    kind = sys.argv[1]
    warm_up(kind)
    paths = sys.stdin.read().splitlines()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmSize:"):
            limit = int(line.split()[1]) * 1024 + MEMORY_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for path in paths:
        signal.alarm(SECONDS)  # whose signal ends the process
        try:
            outcome = {"outcome": "result", "digest": KINDS[kind](Path(path))}
        except JaxsepError as error:
            message = str(error)
            one_sentence = "\n" not in message and len(message) < 2000
            outcome = {"outcome": "refused" if one_sentence else "unreadable message", "message": message}
        except BaseException as error:
            outcome = {"outcome": type(error).__name__, "message": str(error)[:500]}
        signal.alarm(0)
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
