"""One leg of a comparison of speed: one framework, one task, in a process of its own. speed.py starts it.

`python -m jaxsep.compare.speed_leg LEG.json RESULT.json`. Of a leg only its framework has been imported when the
clock starts for it; jaxsep itself, which reads the weights and describes the network, brings JAX along in every leg.
"""

import gc
import importlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from jaxsep.compare.legs import PACKAGES, as_leg, limit_processors
from jaxsep.config import Config
from jaxsep.environment import peak_memory_bytes


class Leg(Config):
    """What one process measures.

    Attributes:
        framework: A name of `PACKAGES`.
        task: 'inference' or 'training'.
        model: A model's name or path.
        member: Number of the model in an ensemble; None for what is none.
        batch_size: Segments in a call.
        threads: Of the framework.
        warm_up: Calls after the first that are not counted.
        repeats: Calls that are.
    """

    framework: str
    task: str
    model: str
    member: int | None = None
    batch_size: int
    threads: int
    warm_up: int
    repeats: int


def measure(leg: Leg) -> dict[str, Any]:
    """Measures a leg; times in seconds.

    Returns:
        How long the import, the build (reading and placing weights), compilation and the first call took, what the
        first call gave ('first_value': the loss, or the sum of the estimates), every counted call, and peaks of memory.
    """
    limit_processors(leg.threads)
    package = PACKAGES[leg.framework]
    times: dict[str, Any] = {}
    module = _timed(times, "import_seconds", lambda: importlib.import_module(package))
    times["memory_after_import_bytes"] = peak_memory_bytes()

    from jaxsep.compare.frameworks import FRAMEWORKS
    from jaxsep.weights.pretrained import load_one

    def build() -> tuple[Any, Any]:
        checkpoint = load_one(leg.model, member=leg.member)
        return checkpoint.spec, FRAMEWORKS[leg.framework](checkpoint.spec, checkpoint.variables, leg.threads)

    spec, framework = _timed(times, "build_seconds", build)
    rng = np.random.default_rng(0)
    shape = spec.input_shape()
    mixture = np.abs(rng.standard_normal((leg.batch_size, *shape), np.float32))
    if leg.task == "inference":
        compile_call, call = framework.inference(mixture)
    else:
        sources = np.abs(rng.standard_normal((leg.batch_size, len(spec.stems), *spec.output_shape()), np.float32))
        compile_call, step = framework.training(mixture, sources)
        call = partial(step, mixture, sources)
    _timed(times, "compile_seconds", compile_call)
    first = _timed(times, "first_call_seconds", call)
    for _ in range(leg.warm_up):
        call()
    gc.collect()
    calls = []
    for _ in range(leg.repeats):
        started = time.perf_counter()
        call()
        calls.append(time.perf_counter() - started)
    return {
        **times,
        "version": str(module.__version__),
        "segment_seconds": spec.chunk_hop / spec.sample_rate,
        "first_value": float(np.sum(first, dtype=np.float64)),
        "call_seconds": calls,
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_device_memory_bytes": framework.device_memory_bytes(),
    }


def _timed(times: dict[str, Any], name: str, function: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = function()
    times[name] = time.perf_counter() - started
    return result


def main() -> None:
    """Measures the leg of the file that is named first, and writes the result to the second."""
    as_leg(Leg, measure)


if __name__ == "__main__":
    main()
