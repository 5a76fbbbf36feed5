"""What the replicated step would be on TPUs, with none present: libtpu compiles it for chips that are described.

`python -m train.tpu_programs --output FILE.json`, in an environment with libtpu (`make bench-tpu`). Memory, operations
and communication are the compiler's; speed is not measured: nothing runs.
"""

import argparse
import datetime
import importlib.metadata
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxsep.models import FAMILIES
from jaxsep.models.spec import ModelSpec
from jaxsep.training.objective import Batch, LossConfig, objective
from jaxsep.training.optimizer import OptimizerConfig, build_optimizer
from jaxsep.training.state import create_state
from jaxsep.training.step import train_step
from jaxsep.weights import spleeter, twins
from train.parallel import AXIS, replicate_step

_LOG = logging.getLogger("train.tpu_programs")

_SPECS = {**spleeter.SPECS, **twins.SPECS}
# Chips, and how many of them one host has: eight on one host, and sixteen on four.
TOPOLOGIES: dict[str, dict[str, Any]] = {"v5e:2x4": {"chips_per_host_bounds": (2, 4, 1)}, "v5e:4x4": {}}
# Topologies, models, and what their networks compute in. Each compiles for minutes.
PROGRAMS = (
    ("v5e:2x4", "jansson", "float32"),
    ("v5e:4x4", "jansson", "float32"),
    ("v5e:2x4", "spleeter-2stems", "float32"),
    ("v5e:2x4", "spleeter-2stems", "bfloat16"),
    ("v5e:4x4", "spleeter-2stems", "bfloat16"),
    ("v5e:2x4", "classic-unet", "bfloat16"),
)

_COLLECTIVE = re.compile(
    r" = (?P<types>\(.*?\)|\S+) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)
_ARRAY = re.compile(r"\b(?:pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<shape>[\d,]*)\]")


def describe_program(
    spec: ModelSpec, devices: Sequence[jax.Device], *, compute_dtype: str, examples: int
) -> dict[str, Any]:
    """Compiles the replicated Adam step of a model and tells what the compiler says of it.

    Args:
        spec: The model.
        devices: Of all hosts; none of them needs to be there.
        compute_dtype: What the network computes in.
        examples: On each device.

    Returns:
        Bytes and operations on one device, ready for JSON. The compiler counts the zeros of dilated convolutions too.
    """
    family = FAMILIES[spec.family]
    key = jax.eval_shape(lambda: jax.random.key(0))
    waveform = (spec.chunking.chunk_length, spec.channels)
    transform = spec.stft
    frames = None if transform is None else spec.chunking.chunk_hop // transform.hop_length
    shape = waveform if frames is None else (frames, spec.bins, spec.channels)
    alone = family.module(spec.config)
    variables = jax.eval_shape(partial(alone.init, train=False), key, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    optimizer = build_optimizer(OptimizerConfig(), variables["params"])
    state = jax.eval_shape(partial(create_state, optimizer=optimizer, ema=False), variables)
    share = (len(devices), examples)
    batch = jax.eval_shape(
        lambda: Batch(jnp.zeros((*share, *waveform)), jnp.zeros((*share, len(spec.stems), *waveform)))
    )
    model = family.module(spec.config, dtype=jnp.dtype(compute_dtype), axis_name=AXIS)
    loss_fn = partial(objective, model=model, spec=spec, loss=LossConfig(), train=True)
    step: Any = replicate_step(partial(train_step, loss_fn=loss_fn, optimizer=optimizer), list(devices))
    started = time.perf_counter()
    compiled = step.lower(state, batch, key).compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    # The state that goes in and the one that comes out share their place.
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "devices": len(devices),
        "hosts": len({device.process_index for device in devices}),
        "examples_per_device": examples,
        "memory_bytes": {
            "arguments": memory.argument_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "further_outputs": outputs,
            "program": memory.generated_code_size_in_bytes,
        },
        "flops": compiled.cost_analysis()["flops"],
        "collectives": collectives(compiled.as_text()),
        "compile_seconds": seconds,
    }


def collectives(program: str) -> dict[str, dict[str, int]]:
    """Counts what devices say to each other.

    Args:
        program: Compiled, as XLA's text.

    Returns:
        By kind ('all-reduce'): how many there are, and the bytes of their results, without padding.
    """
    found: dict[str, dict[str, int]] = {}
    for match in _COLLECTIVE.finditer(program):
        kind = found.setdefault(match["kind"], {"count": 0, "bytes": 0})
        kind["count"] += 1
        kind["bytes"] += sum(_bytes(array) for array in _ARRAY.finditer(match["types"]))
    return found


def _bytes(array: re.Match[str]) -> int:
    elements = 1
    for length in filter(None, array["shape"].split(",")):
        elements *= int(length)
    return elements * int(array["bits"] or 8) // 8


def main() -> None:
    """Compiles all programs for all topologies and writes one JSON file."""
    parser = argparse.ArgumentParser(prog="python -m train.tpu_programs", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--examples", type=int, default=4, help="on each chip (default 4)")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    _LOG.setLevel(logging.INFO)
    # libtpu would ask the machine's cloud which TPU it has, and JAX would try to use it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.orig_argv),
        "versions": {package: importlib.metadata.version(package) for package in ("jax", "jaxlib", "libtpu", "flax")},
        "programs": [],
    }
    for topology, name, compute_dtype in PROGRAMS:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology, **TOPOLOGIES[topology])
        row = {"topology": topology, "model": name, "compute_dtype": compute_dtype}
        try:
            row |= describe_program(
                _SPECS[name], described.devices, compute_dtype=compute_dtype, examples=arguments.examples
            )
        except jax.errors.JaxRuntimeError as error:  # most often: more memory than a chip has
            row["refused"] = str(error).splitlines()[0]
        report["programs"].append(row)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")
        _LOG.info("%s", json.dumps(row))


if __name__ == "__main__":
    main()
