"""How fast the U-Net's forward pass is against its PyTorch twin, on the CPU and on equal terms. Networks only.

`python -m jaxsep.compare.network_speed --output FILE.json`. Both run in one process with the same weights and threads,
by turns, so that whatever else loads the machine slows both.
"""

import argparse
import datetime
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep.compare import load
from jaxsep.environment import processor, processors
from jaxsep.models.unet import SPLEETER_2STEMS, UNet, UNetConfig

_LOG = logging.getLogger("jaxsep.compare.network_speed")

# Calls of one function in a row, before it is the other's turn, beside the first, which is not counted.
COUNTED_IN_A_TURN = 3


def measure_forward(
    *,
    batch_sizes: Sequence[int] = (1, 2, 4),
    frames: int = 512,
    repeats: int = 15,
    config: UNetConfig = SPLEETER_2STEMS,
) -> dict[str, Any]:
    """Times the forward pass of all sources in one call, ours and PyTorch's channels last, by turns.

    Args:
        batch_sizes: Segments per call.
        frames: STFT frames of a segment.
        repeats: Calls of each that are counted.
        config: The form of the network; the weights are random, which costs the same as any.

    Returns:
        What was measured, ready for JSON: times in seconds, rates in 10^9 float32 operations a second.
    """
    import torch

    from jaxsep.compare.reference import unet as reference

    before, during = load.load_average(), []
    threads = processors()
    torch.set_num_threads(threads)
    network = UNet(config)
    rng = np.random.default_rng(0)
    with jax.default_device(jax.devices("cpu")[0]):
        smallest = jnp.zeros((config.stride, config.bins, config.channels))
        variables = jax.jit(lambda key: network.init(key, smallest, train=False))(jax.random.key(0))
        twin = reference.UNet(config).eval()
        reference.load_variables(twin, variables)
        # torch's stubs leave out `memory_format` without `dtype`.
        twin = twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        peaks = [matrix_peak()]
        rows: list[dict[str, Any]] = []
        for batch in batch_sizes:
            magnitude = rng.random((batch, frames, config.bins, config.channels), np.float32)
            on_device = jnp.asarray(magnitude)
            started = time.perf_counter()
            compiled = jax.jit(lambda v, x: network.apply(v, x, train=False)).lower(variables, on_device).compile()
            compile_seconds = time.perf_counter() - started
            # A channels-last view of the same memory: no copy is timed.
            channels_first = torch.from_numpy(magnitude).permute(0, 3, 1, 2)

            def ours(compiled: Callable[..., jax.Array] = compiled, magnitude: jax.Array = on_device) -> np.ndarray:
                return np.asarray(compiled(variables, magnitude).block_until_ready())

            def theirs(magnitude: torch.Tensor = channels_first) -> np.ndarray:
                with torch.inference_mode():
                    return twin(magnitude).permute(0, 1, 3, 4, 2).numpy()

            expected = theirs()
            error = float(np.abs(ours() - expected).max() / np.abs(expected).max())
            times = by_turns({"jaxsep": ours, "pytorch": theirs}, repeats)
            during.append(load.load_average())
            peaks.append(matrix_peak())
            medians = {name: statistics.median(seconds) for name, seconds in times.items()}
            rows.append(
                {
                    "batch": batch,
                    "median_seconds": medians,
                    "minimum_seconds": {name: min(seconds) for name, seconds in times.items()},
                    "steadiness": steadiness(times),
                    "times_as_fast_as_pytorch": medians["pytorch"] / medians["jaxsep"],
                    # Counted as plain convolutions, of which Winograd's form computes half and the other forms more.
                    "gflops_per_second": 2e-9 * batch * multiplications(config, frames) / medians["jaxsep"],
                    "compile_seconds": compile_seconds,
                    "largest_difference": error,
                }
            )
            _LOG.info("batch %d: %.2f times as fast as PyTorch", batch, rows[-1]["times_as_fast_as_pytorch"])
    peak = max(peaks)
    for row in rows:
        row["fraction_of_matrix_peak"] = row["gflops_per_second"] / peak
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.orig_argv),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "torch": torch.__version__},
        "cpu": processor(),
        "threads": threads,
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "load_average": load.verdict(before, during, threads, rows_of_turns(rows)),
        "frames": frames,
        "repeats": repeats,
        "config": config.model_dump(mode="json"),
        "matrix_peak_gflops_per_second": peak,
        "forward": rows,
    }


def multiplications(config: UNetConfig, frames: int) -> int:
    """Returns the multiplications of all convolutions for one segment of so many frames, as they are defined."""
    taps = config.kernel_size**2
    depth = len(config.filters)
    pixels = [frames * config.bins // 4 ** (i + 1) for i in range(depth)]
    encoder = zip(pixels, (config.channels, *config.filters), config.filters, strict=False)
    # A decoder block reads the bottleneck, or its predecessor and a skip of equal width.
    inputs = (config.filters[-1], *(2 * features for features in config.filters[-2::-1]))
    outputs = (*config.filters[-2::-1], 1)
    decoder = zip(pixels[::-1], inputs, outputs, strict=True)
    convolutions = sum(taps * area * a * b for pairs in (encoder, decoder) for area, a, b in pairs)
    return config.n_sources * (convolutions + 16 * config.channels * frames * config.bins)


def by_turns(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Times calls, A A A A B B B B A A A A ...

    Chunks of a song and steps of training come one after another, and so do the calls of a turn; the first of each is
    not counted. XLA gives all its memory back after every call on a CPU; after a pause, in which the other framework
    ran, the system and the machine under a virtual one take longer to hand it out again. Of the Wave-U-Net's redesign,
    with 1.2 GB, a step takes half as long again then.

    Args:
        functions: What is called, by name.
        repeats: Calls of each that are counted, or a few more: turns are whole.

    Returns:
        The seconds of every call that is counted, in order.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(-(-repeats // COUNTED_IN_A_TURN)):
        for name, function in functions.items():
            function()
            for _ in range(COUNTED_IN_A_TURN):
                started = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - started)
    return times


def steadiness(times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Returns how far the times of `by_turns` lie apart, by name: each turn is a round."""
    return {
        name: load.steadiness([seconds[i : i + COUNTED_IN_A_TURN] for i in range(0, len(seconds), COUNTED_IN_A_TURN)])
        for name, seconds in times.items()
    }


def rows_of_turns(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns what `load.verdict` takes of the rows of a report, each with the 'steadiness' of both frameworks."""
    return [
        load.row_of(
            ", ".join([name, *(str(row[key]) for key in ("model", "part") if key in row), f"batch {row['batch']}"]),
            steady,
        )
        for row in rows
        for name, steady in row["steadiness"].items()
    ]


def matrix_peak(size: int = 2048) -> float:
    """Returns the rate of a large matrix product, in 10^9 float32 operations a second."""
    matrix = jnp.ones((size, size))
    multiply = jax.jit(jnp.matmul)
    multiply(matrix, matrix).block_until_ready()
    seconds = by_turns({"matmul": lambda: multiply(matrix, matrix).block_until_ready()}, 7)["matmul"]
    return 2e-9 * size**3 / min(seconds)


def main() -> None:
    """Measures and writes one JSON file."""
    parser = argparse.ArgumentParser(prog="python -m jaxsep.compare.network_speed", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=15, help="calls of each network (default 15)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4], help="segments per call")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    _LOG.setLevel(logging.INFO)
    results = measure_forward(batch_sizes=arguments.batch_sizes, repeats=arguments.repeats)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    _LOG.info("%s", load.in_words(results["load_average"]))


if __name__ == "__main__":
    main()
