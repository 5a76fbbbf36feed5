"""The rows of bench/gpu.py: what one process measures, in one framework, and tells on its standard output.

Times are those of calls whose inputs are on the device; operations are XLA's count for plain convolutions. What is
called is in gpu_frameworks.py.
"""

import contextlib
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from bench.gpu_frameworks import Framework, Jax, Ready, Torch, as_batch, training_step
from bench.gpu_networks import build, chunk_seconds, host_inputs, host_sources

# The most important first: of growing batches, each is measured in all cases before the next one.
CASES = {"forward": ("highest", "default", "bfloat16"), "step": ("default", "bfloat16", "highest")}
BATCHES = {"forward": (1, 4, 16, 64, 256, 1024, 4096), "step": (16, 64, 256)}
# `torch.compile` takes too long for all of them.
COMPILED_BATCHES = {"forward": (16, 64, 256), "step": (16, 64)}
TINY_BATCHES = {"forward": (1, 8), "step": (8,)}

Row = dict[str, Any]
Task = dict[str, Any]


def timed(prepare: Callable[[], Ready], *, tiny: bool) -> Row:
    """Returns how long calls take: the median over groups of calls, each group synchronised at its end.

    A group is as many calls as take 50 ms, one at least, as chunks and steps follow one another in use. After 1.5 s no
    more groups are begun once there are three.

    Args:
        prepare: Makes ready what is called.
        tiny: Whether there are but three groups, of a call each.
    """
    repeats, group_seconds = (3, 0.0) if tiny else (15, 0.05)
    started = time.perf_counter()
    ready = prepare()
    result = ready.call()
    ready.wait(result)
    first = time.perf_counter() - started
    value = ready.value(result)
    del result

    def group(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            result = ready.call()
        ready.wait(result)
        return (time.perf_counter() - began) / calls

    calls = min(max(int(group_seconds / group(1)), 1), 20)
    group(calls)
    times: list[float] = []
    until = time.perf_counter() + 1.5
    while len(times) < 3 or (len(times) < repeats and time.perf_counter() < until):
        times.append(group(calls))
    return {
        "median_seconds": statistics.median(times),
        "minimum_seconds": min(times),
        "groups": len(times),
        "calls_in_a_group": calls,
        "first_call_seconds": first,
        "value": value,
        "memory_bytes": ready.memory_bytes(),
    }


class Clock:
    """The time of one task.

    Attributes:
        until: When the task has to be over, by `time.time`.
    """

    def __init__(self, task: Task, end: float) -> None:
        """Gives a task its share of the time left, and at least what its first row needs where there is so much."""
        now = time.time()
        needs, left = task["needs_seconds"], end - now
        self.until = now + max(left * task["share"], min(needs, left))
        self._expected = needs if left < needs else 0.0

    @property
    def left(self) -> float:
        """Seconds of the task that are left."""
        return self.until - time.time()

    def lacks(self) -> str | None:
        """Returns why no further row is begun: it may take 1.2 times as long as the last one, and there is less."""
        if self._expected <= self.left:
            return None
        return f"{max(self.left, 0):.0f} s are left, and it needs some {self._expected:.0f} s"

    @contextlib.contextmanager
    def row(self) -> Iterator[None]:
        """Takes the time of a row."""
        began = time.time()
        try:
            yield
        finally:
            self._expected = 1.2 * (time.time() - began)


def grow(
    batches: Sequence[int], cases: Sequence[str], clock: Clock, measure: Callable[[int, str], Row]
) -> Iterator[Row]:
    """Measures growing batches, each in all cases; a case ends with the first batch that fails.

    Args:
        batches: Ascending.
        cases: The most important first.
        clock: Of the task.
        measure: Returns the row of a batch in a case.

    Yields:
        Rows. The last of a case may be that memory ended ('out of memory') or another reason ('failed'); where time is
        short, the last row of all is 'skipped'.
    """
    going = list(cases)
    for batch in batches:
        for case in tuple(going):
            named = {"batch": batch, "case": case}
            if (lack := clock.lacks()) is not None:
                yield {**named, "status": "skipped", "reason": lack}
                return
            with clock.row():
                row = attempt(partial(measure, batch, case))
            if row["status"] != "measured":
                going.remove(case)
            yield {**named, **row}


def attempt(measure: Callable[[], Row]) -> Row:
    """Returns what is measured, or why it could not be."""
    try:
        return {"status": "measured", **measure()}
    except Exception as error:
        return failure(error)
    finally:
        gc.collect()


def failure(error: Exception) -> Row:
    """Returns how a row ends that is not measured, with the reason in one line."""
    if isinstance(error, ModuleNotFoundError):
        return {"status": "skipped", "reason": f"the package '{error.name}' is not installed here"}
    if isinstance(error, subprocess.TimeoutExpired):
        return {"status": "skipped", "reason": "the time is over"}
    memory = "RESOURCE_EXHAUSTED" in str(error) or type(error).__name__ == "OutOfMemoryError"
    lines = str(error).strip().splitlines() or [""]
    return {
        "status": "out of memory" if memory else "failed",
        "reason": f"{type(error).__name__}: {lines[0][:200]}",
    }


def measure_networks(task: Task, framework: Framework, clock: Clock, tiny: bool) -> Iterator[Row]:
    """Yields the rows of growing batches of a network, forward or in steps."""
    kind, network = task["task"], build(task["model"], tiny)
    batches = (TINY_BATCHES if tiny else COMPILED_BATCHES if task["framework"] == "torch-compile" else BATCHES)[kind]
    prepare = framework.forward if kind == "forward" else framework.step

    def measure(batch: int, case: str) -> Row:
        try:
            row = timed(lambda: prepare(network, batch, case), tiny=tiny)
        finally:
            gc.collect()
            framework.free()
        chunks = batch / row["median_seconds"]
        return {**row, "chunks_per_second": chunks, "times_real_time": chunks * chunk_seconds(network.spec)}

    yield from grow(batches, CASES[kind][: 2 if tiny and kind == "step" else 3], clock, measure)


def measure_peak(task: Task, framework: Framework, clock: Clock, tiny: bool) -> Iterator[Row]:
    """Yields the rate of a large matrix product in each case."""
    size = 256 if tiny else 8192

    def measure(_: int, case: str) -> Row:
        row = timed(lambda: framework.matmul(size, case), tiny=tiny)
        return {**row, "size": size, "flops_per_second": 2 * size**3 / row["median_seconds"]}

    yield from grow([1], CASES["forward"], clock, measure)


def count_operations(task: Task, framework: Framework, clock: Clock, tiny: bool) -> Iterator[Row]:
    """Yields the floating-point operations of a chunk, forward and in a step, as XLA counts them before compilation."""
    import jax
    import jax.numpy as jnp

    network = build(task["model"], tiny)
    module = network.module.clone(form="native")

    def count(kind: str) -> Row:
        # Counted for the CPU, since not every plugin for another device counts.
        with jax.default_device(jax.devices("cpu")[0]):
            if kind == "forward":
                inputs = jax.ShapeDtypeStruct((1, *network.spec.input_shape()), jnp.float32)
                lowered = jax.jit(partial(module.apply, train=False)).lower(network.variables, inputs)
            else:
                step, start = training_step(module, network)
                state = jax.eval_shape(start, network.variables)
                lowered = step.lower(state, as_batch(host_sources(network.spec, 1)), jax.random.key(1))
            return {"flops_per_chunk": float((lowered.cost_analysis() or {})["flops"])}

    yield from grow([1], ["forward", "step"], clock, lambda _, kind: count(kind))


def compare_with_cpu(task: Task, framework: Framework, clock: Clock, tiny: bool) -> Iterator[Row]:
    """Yields how far the device's estimates are from the CPU's in float32: max|a-b| / max|b|."""
    import jax
    import numpy as np

    assert isinstance(framework, Jax)
    network = build(task["model"], tiny)
    cpu = jax.devices("cpu")[0]

    @functools.cache
    def expected() -> np.ndarray:
        variables, inputs = jax.device_put((network.variables, host_inputs(network.spec, 1)), cpu)
        with jax.default_matmul_precision("highest"):
            return np.asarray(jax.jit(partial(network.module.apply, train=False))(variables, inputs))

    def measure(_: int, case: str) -> Row:
        found = np.asarray(framework.forward(network, 1, case).call(), np.float32)
        return {"difference": float(np.abs(found - expected()).max() / np.abs(expected()).max())}

    yield from grow([1], CASES["forward"], clock, measure)


def separate_song(task: Task, clock: Clock, tiny: bool, environment: dict[str, str]) -> Iterator[Row]:
    """Yields how long `jaxsep separate` of a song takes as a process: without what it keeps on disk, and with that.

    Args:
        task: Names the model.
        clock: Of the task.
        tiny: Whether song and network are tiny.
        environment: Of the command.
    """
    from jaxsep.weights.checkpoint import save_checkpoint

    seconds, rate = (2 if tiny else 180), 44100
    with tempfile.TemporaryDirectory(prefix="jaxsep.") as folder:
        song, report, model = Path(folder, "song.wav"), Path(folder, "report.json"), task["model"]
        with wave.open(str(song), "wb") as file:
            file.setparams((2, 2, rate, 0, "NONE", "NONE"))
            file.writeframes(os.urandom(4 * rate * seconds))
        if tiny or model != "spleeter-2stems":
            network, model = build(model, tiny), str(Path(folder, "model.safetensors"))
            save_checkpoint(model, network.spec, network.variables)
        command = [sys.executable, "-m", "jaxsep", "separate", str(song), "-m", model, "-o", f"{folder}/out"]
        command += ["--overwrite", "--quiet", "--report", str(report)]

        def run() -> float:
            began = time.perf_counter()
            kept = {**environment, "JAXSEP_CACHE": f"{folder}/cache"}
            done = subprocess.run(command, env=kept, capture_output=True, text=True, check=False, timeout=clock.left)
            if done.returncode:
                raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
            return time.perf_counter() - began

        def measure(_: int, case: str) -> Row:
            times = [run() for _ in range(3 if case == "warm" and not tiny else 1)]
            told = json.loads(report.read_text())
            return {
                "median_seconds": statistics.median(times),
                "all_seconds": times,
                "times_real_time": seconds / statistics.median(times),
                "device": told["device"],
                "timings_seconds": told["files"][0]["timings_seconds"],
                "chunks_in_a_call": told["options"]["batch_size"],
            }

        yield from grow([1], ["cold", "warm"], clock, measure)


MEASUREMENTS = {
    "peak": measure_peak,
    "operations": count_operations,
    "parity": compare_with_cpu,
    "forward": measure_networks,
    "step": measure_networks,
}


def rows_of(
    task: Task, framework: Callable[[], Framework], clock: Clock, tiny: bool, environment: dict[str, str]
) -> Iterator[Row]:
    """Yields the rows of a task; a task that fails as a whole is one row."""
    try:
        if task["task"] == "separate":
            yield from separate_song(task, clock, tiny, environment)
        else:
            yield from MEASUREMENTS[task["task"]](task, framework(), clock, tiny)
    except Exception as error:
        yield {"case": None, "batch": None, **failure(error)}


def main() -> None:
    """Does the tasks of the order that is the first argument, and writes a line of JSON for each row."""
    # What libraries print goes to standard error.
    told: IO[str] = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    order = json.loads(sys.argv[1])
    tiny, end, name = order["tiny"], order["end"], order["tasks"][0]["framework"]
    environment = dict(os.environ)
    if name == "jax":
        os.environ.pop("JAX_PLATFORMS", None)  # the CPU is needed beside the GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    else:
        os.environ["JAX_PLATFORMS"] = "cpu"
    if tiny:
        # Most of the time would be compilation, and threads that wait for each other.
        os.environ |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "OMP_NUM_THREADS": "1"}

    @functools.cache
    def framework() -> Framework:
        return Jax(tiny=tiny) if name == "jax" else Torch(tiny=tiny, compiled=name == "torch-compile")

    for number, task in enumerate(order["tasks"]):
        print(json.dumps({"begin": number}), file=told, flush=True)
        named = {key: task[key] for key in ("task", "model", "framework")}
        for row in rows_of(task, framework, Clock(task, end), tiny, environment):
            print(json.dumps({**named, **row}), file=told, flush=True)


if __name__ == "__main__":
    main()
