"""How fast a step of training is against PyTorch, on the CPU and on equal terms. Inference is in network_speed.py.

`python -m jaxsep.compare.training_speed --output FILE.json`. Both train Spleeter's U-Net with its dropout by Adam, from
the same weights and on the same audio, in one process and by turns, so that whatever else loads the machine slows both.
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

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsep.compare import load
from jaxsep.compare.network_speed import by_turns, matrix_peak, multiplications, rows_of_turns, steadiness
from jaxsep.dsp.stft import STFTConfig
from jaxsep.environment import processor, processors
from jaxsep.models.spec import ModelSpec
from jaxsep.models.unet import UNet, UNetConfig
from jaxsep.training.losses import l1
from jaxsep.training.objective import Batch, Evaluated, LossConfig, objective
from jaxsep.training.optimizer import OptimizerConfig, build_optimizer
from jaxsep.training.state import create_state
from jaxsep.training.step import LossFunction, train_step
from jaxsep.typing import Variables
from jaxsep.weights.spleeter import SPECS

_LOG = logging.getLogger("jaxsep.compare.training_speed")

# Spleeter's.
LEARNING_RATE = 1e-4


def measure_training(
    spec: ModelSpec = SPECS["spleeter-2stems"], *, batch_sizes: Sequence[int] = (1, 2, 4), repeats: int = 15
) -> dict[str, Any]:
    """Times steps, ours and PyTorch's channels last, by turns: whole ones, and those of the network alone.

    A whole step starts from waveforms in host memory and ends when the parameters are updated and the loss is read;
    that of the network alone starts from magnitudes.

    Args:
        spec: A U-Net; its weights are random, which costs the same as any.
        batch_sizes: Examples in a step.
        repeats: Steps of each that are counted.

    Returns:
        What was measured, ready for JSON: times in seconds, rates in 10^9 float32 operations a second.
    """
    import torch

    before, during = load.load_average(), []
    threads = processors()
    torch.set_num_threads(threads)
    config, domain = spec.config, spec.domain.magnitudes("this measurement")
    assert isinstance(config, UNetConfig)
    transform, frames = domain.stft, spec.input_shape()[0]
    model = UNet(config)
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    with jax.default_device(jax.devices("cpu")[0]):
        smallest = jnp.zeros((config.stride, config.bins, config.channels))
        variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), smallest)
        peaks = [matrix_peak()]
        for batch_size in batch_sizes:
            shape = (batch_size, config.n_sources, spec.chunk_length, spec.channels)
            sources = jnp.asarray(0.1 * rng.standard_normal(shape, np.float32))
            waveforms = Batch(sources.sum(axis=1), sources)
            magnitudes = Batch(*map(domain.targets, waveforms))
            whole = partial(objective, model=model, spec=spec, loss=LossConfig(), train=True)
            network = partial(_loss_of_magnitudes, model=model)
            for part, loss_fn, batch in (("step", whole, waveforms), ("network", network, magnitudes)):
                ours, compile_seconds = _our_step(loss_fn, variables, batch)
                theirs = _their_step(config, variables, batch, transform if part == "step" else None)
                first = {"jaxsep": ours(), "pytorch": theirs()}
                times = by_turns({"jaxsep": ours, "pytorch": theirs}, repeats)
                during.append(load.load_average())
                peaks.append(matrix_peak())
                medians = {name: statistics.median(seconds) for name, seconds in times.items()}
                pairs = zip(times["jaxsep"], times["pytorch"], strict=True)
                rows.append(
                    {
                        "part": part,
                        "batch": batch_size,
                        "median_seconds": medians,
                        "minimum_seconds": {name: min(seconds) for name, seconds in times.items()},
                        "steadiness": steadiness(times),
                        "times_as_fast_as_pytorch": statistics.median(theirs / ours for ours, theirs in pairs),
                        "gflops_per_second": 2e-9 * batch_size * _multiplications(config, frames) / medians["jaxsep"],
                        "compile_seconds": compile_seconds,
                        # They differ by what dropout drew.
                        "first_loss": first,
                        "last_loss": {"jaxsep": ours(), "pytorch": theirs()},
                    }
                )
                _LOG.info(
                    "batch %d, %s: %.2f s, %.2f times as fast as PyTorch",
                    batch_size,
                    part,
                    medians["jaxsep"],
                    rows[-1]["times_as_fast_as_pytorch"],
                )
    for row in rows:
        row["fraction_of_matrix_peak"] = row["gflops_per_second"] / max(peaks)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.orig_argv),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "torch": torch.__version__},
        "cpu": processor(),
        "threads": threads,
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "load_average": load.verdict(before, during, threads, rows_of_turns(rows)),
        "repeats": repeats,
        "model": spec.model_dump(mode="json"),
        "matrix_peak_gflops_per_second": max(peaks),
        "training": rows,
    }


def _our_step(loss_fn: LossFunction, variables: Variables, batch: Batch) -> tuple[Callable[[], float], float]:
    """Returns a function that makes a step and returns its loss, and how long it took to compile."""
    optimizer = build_optimizer(OptimizerConfig(learning_rate=LEARNING_RATE), variables["params"])
    state, key = create_state(variables, optimizer, ema=False), jax.random.key(1)
    step = jax.jit(partial(train_step, loss_fn=loss_fn, optimizer=optimizer, axis_name=None), donate_argnums=0)
    started = time.perf_counter()
    compiled = step.lower(state, batch, key).compile()
    seconds = time.perf_counter() - started

    def make() -> float:
        nonlocal state
        state, metrics = compiled(state, batch, key)
        return float(jax.block_until_ready((metrics.loss, state))[0])

    return make, seconds


def _their_step(
    config: UNetConfig, variables: Variables, batch: Batch, transform: STFTConfig | None
) -> Callable[[], float]:
    """Returns a function that makes PyTorch's step and returns its loss; without a transform, from magnitudes."""
    import torch

    from jaxsep.compare.reference import unet as reference

    network = reference.UNet(config)
    reference.load_variables(network, variables)
    # torch's stubs leave out `memory_format` without `dtype`.
    network = network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    # The fastest of torch's three forms of Adam.
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
    window = None if transform is None else torch.hann_window(transform.n_fft)

    # The same memory, channels last; no copy is timed.
    inputs = [torch.from_numpy(np.array(leaf)) for leaf in batch]

    def magnitude(values: torch.Tensor) -> torch.Tensor:
        if transform is None:
            return values.movedim(-1, -3)
        audio = values.movedim(-1, -2)
        spectrogram = torch.stft(
            audio.reshape(-1, audio.shape[-1]),
            transform.n_fft,
            transform.hop_length,
            window=window,
            center=False,
            return_complex=True,
        )
        cut = spectrogram[:, : config.bins].abs().mT
        return cut.reshape(*audio.shape[:-1], *cut.shape[-2:])

    def make() -> float:
        mixture, targets = map(magnitude, inputs)
        optimizer.zero_grad(set_to_none=True)
        estimates = network(mixture.contiguous(memory_format=torch.channels_last))
        loss = (estimates - targets).abs().mean(dim=(2, 3, 4)).sum(dim=1).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return make


def _loss_of_magnitudes(
    params: Variables, batch_stats: Variables, batch: Batch, key: PRNGKeyArray, *, model: nn.Module
) -> tuple[Float[Array, ""], Evaluated]:
    """The objective behind the transform."""
    estimates, updated = model.apply(
        {"params": params, "batch_stats": batch_stats},
        batch.mixture,
        train=True,
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )
    losses = l1(estimates, batch.sources)
    examples = losses.sum(axis=1)
    return examples.mean(), Evaluated(updated.get("batch_stats", batch_stats), losses.mean(axis=0), examples)


def _multiplications(config: UNetConfig, frames: int) -> int:
    """Those of all convolutions and of their gradients, as defined; nobody needs the gradient by the mixture."""
    first = config.kernel_size**2 * frames * config.bins // 4 * config.channels * config.filters[0]
    return 3 * multiplications(config, frames) - config.n_sources * first


def main() -> None:
    """Measures and writes one JSON file."""
    parser = argparse.ArgumentParser(prog="python -m jaxsep.compare.training_speed", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=15, help="steps of each (default 15)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4], help="examples in a step")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    _LOG.setLevel(logging.INFO)
    results = measure_training(batch_sizes=arguments.batch_sizes, repeats=arguments.repeats)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    _LOG.info("%s", load.in_words(results["load_average"]))


if __name__ == "__main__":
    main()
