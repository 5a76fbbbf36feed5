"""How fast the Wave-U-Nets are against their PyTorch twins, on the CPU and on equal terms: forward, and in training.

`python -m jaxsep.compare.wave_unet_speed --output FILE.json [--models wave-unet-m4 ...]`. Both run in one process with
the same weights, audio and threads, by turns, so that whatever else loads the machine slows both.
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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep.compare import load
from jaxsep.compare.network_speed import by_turns, rows_of_turns, steadiness
from jaxsep.compare.twins import build_twin
from jaxsep.environment import processor, processors
from jaxsep.models.spec import ModelSpec
from jaxsep.training.objective import Batch, LossConfig, LossTerm, objective
from jaxsep.training.optimizer import OptimizerConfig, build_optimizer
from jaxsep.training.state import create_state
from jaxsep.training.step import train_step
from jaxsep.typing import Variables
from jaxsep.weights.rules import RULES, SPECS

_LOG = logging.getLogger("jaxsep.compare.wave_unet_speed")

LEARNING_RATE = 1e-4
_FORMS = [name for family in ("wave_unet", "wave_unet_resampled") for name in RULES[family].forms]


def measure(spec: ModelSpec, *, forward_batches: Sequence[int], step_batches: Sequence[int], repeats: int) -> list[Any]:
    """Times the forward pass of all sources, and steps of Adam on the squared error, ours and PyTorch's by turns.

    Args:
        spec: A Wave-U-Net; its weights are random, which costs the same as any.
        forward_batches: Chunks in one call.
        step_batches: Examples in one step.
        repeats: Calls of each that are counted.

    Returns:
        What was measured, ready for JSON: times in seconds.
    """
    rng = np.random.default_rng(0)
    model = spec.network()
    length = spec.chunk_length
    variables = jax.jit(lambda key: model.init(key, jnp.zeros((length, spec.channels)), train=False))(jax.random.key(0))
    rows = []
    for part, batches in (("forward", forward_batches), ("step", step_batches)):
        for size in batches:
            sources = 0.1 * rng.standard_normal((size, len(spec.stems), length, spec.channels), np.float32)
            batch = Batch(jnp.asarray(sources.sum(axis=1)), jnp.asarray(sources))
            pair = (_our_forward, _their_forward) if part == "forward" else (_our_step, _their_step)
            started = time.perf_counter()
            ours = pair[0](spec, variables, batch)
            first = {"jaxsep": ours()}
            compile_seconds = time.perf_counter() - started
            theirs = pair[1](spec, variables, batch)
            first["pytorch"] = theirs()
            times = by_turns({"jaxsep": ours, "pytorch": theirs}, repeats)
            pairs = zip(times["jaxsep"], times["pytorch"], strict=True)
            times_as_fast = statistics.median(theirs / ours for ours, theirs in pairs)
            row = {
                "model": spec.name,
                "part": part,
                "batch": size,
                "median_seconds": {name: statistics.median(seconds) for name, seconds in times.items()},
                "minimum_seconds": {name: min(seconds) for name, seconds in times.items()},
                "steadiness": steadiness(times),
                "load_average": load.load_average(),
                "times_as_fast_as_pytorch": times_as_fast,
                "first_call_seconds": compile_seconds,
                # The mean square of the estimates, or the loss before the first step.
                "first_result": first,
            }
            rows.append(row)
            _LOG.info("%s, %s of %d: %.2f times as fast as PyTorch", spec.name, part, size, times_as_fast)
    return rows


def _our_forward(spec: ModelSpec, variables: Variables, batch: Batch) -> Callable[[], float]:
    model = spec.network()
    apply = jax.jit(partial(model.apply, train=False))

    def call() -> float:
        estimates = np.asarray(apply(variables, batch.mixture))
        return float(np.square(estimates[:, :, :64]).mean())

    return call


def _their_forward(spec: ModelSpec, variables: Variables, batch: Batch) -> Callable[[], float]:
    import torch

    network = build_twin(spec, variables, "torch")[0].eval()
    mixture = torch.from_numpy(np.array(batch.mixture)).movedim(-1, -2).contiguous()

    def call() -> float:
        with torch.inference_mode():
            return network(mixture)[..., :64].square().mean().item()

    return call


def _our_step(spec: ModelSpec, variables: Variables, batch: Batch) -> Callable[[], float]:
    model = spec.network()
    loss = LossConfig(terms=(LossTerm(kind="waveform_l2"),))
    optimizer = build_optimizer(OptimizerConfig(learning_rate=LEARNING_RATE), variables["params"])
    state, key = create_state(variables, optimizer, ema=False), jax.random.key(1)
    loss_fn = partial(objective, model=model, spec=spec, loss=loss, train=True)
    step = jax.jit(partial(train_step, loss_fn=loss_fn, optimizer=optimizer, axis_name=None), donate_argnums=0)

    def call() -> float:
        nonlocal state
        state, metrics = step(state, batch, key)
        return float(jax.block_until_ready((metrics.loss, state))[0])

    return call


def _their_step(spec: ModelSpec, variables: Variables, batch: Batch) -> Callable[[], float]:
    import torch

    network = build_twin(spec, variables, "torch")[0].train()
    # The fastest of torch's three forms of Adam; filters that are not learned get no gradients.
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=LEARNING_RATE, fused=True)
    mixture, sources = (torch.from_numpy(np.array(leaf)).movedim(-1, -2).contiguous() for leaf in batch)
    estimated = spec.output_shape()[0]
    context = (spec.chunk_length - estimated) // 2
    targets = sources[..., context : context + estimated]

    def call() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = (network(mixture) - targets).square().mean(dim=(2, 3)).sum(dim=1).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return call


def main() -> None:
    """Measures and writes one JSON file."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m jaxsep.compare.wave_unet_speed", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--models", nargs="+", default=["wave-unet-m4"], choices=_FORMS, help="which of them")
    parser.add_argument("--forward-batches", type=int, nargs="+", default=[1, 4], help="chunks in a call")
    parser.add_argument("--step-batches", type=int, nargs="+", default=[1, 2], help="examples in a step")
    parser.add_argument("--repeats", type=int, default=7, help="calls of each (default 7)")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    _LOG.setLevel(logging.INFO)
    before, threads = load.load_average(), processors()
    torch.set_num_threads(threads)
    with jax.default_device(jax.devices("cpu")[0]):
        rows = [
            row
            for name in arguments.models
            for row in measure(
                SPECS[name],
                forward_batches=arguments.forward_batches,
                step_batches=arguments.step_batches,
                repeats=arguments.repeats,
            )
        ]
    results = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.orig_argv),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "torch": torch.__version__},
        "cpu": processor(),
        "threads": threads,
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "load_average": load.verdict(before, [row["load_average"] for row in rows], threads, rows_of_turns(rows)),
        "repeats": arguments.repeats,
        "measured": rows,
    }
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    _LOG.info("%s", load.in_words(results["load_average"]))


if __name__ == "__main__":
    main()
