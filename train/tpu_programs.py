"""What the replicated step of each recipe would be on TPUs, with none present: libtpu compiles it for described chips.

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from train.config import RunConfig, load_config
from train.parallel import replicate_step
from train.program import step_shapes

_LOG = logging.getLogger("train.tpu_programs")

_RECIPES = Path(__file__).parents[1] / "configs"
# Chips, and how many of them one host has: eight on one host, and sixteen on four.
TOPOLOGIES: dict[str, dict[str, Any]] = {"v5e:2x4": {"chips_per_host_bounds": (2, 4, 1)}, "v5e:4x4": {}}
# Recipes, and what differs from them; those of fewest operations first. Each compiles for minutes.
PROGRAMS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("v5e:2x4", "smoke", ()),
    ("v5e:2x4", "bench_guitar", ()),
    ("v5e:2x4", "bench_guitar_wave", ()),
    ("v5e:2x4", "unet_jansson", ()),
    ("v5e:2x4", "wave_unet_m4", ()),
    ("v5e:2x4", "wave_unet_m5_highsr", ()),
    ("v5e:2x4", "wave_unet_m6_multi", ()),
    ("v5e:2x4", "wave_unet_torch", ()),
    ("v5e:2x4", "unet_2stems", ()),
    ("v5e:2x4", "bench_guitar_finetune", ()),
    ("v5e:4x4", "unet_jansson", ()),
    ("v5e:2x4", "unet_classic", ()),
    ("v5e:2x4", "unet_jansson_log", ()),
    ("v5e:2x4", "unet_finetune", ()),
    ("v5e:2x4", "htdemucs", ()),
    ("v5e:2x4", "htdemucs_finetune", ()),
    ("v5e:2x4", "hdemucs", ()),
    ("v5e:2x4", "demucs_v3", ()),
    ("v5e:2x4", "bench_guitar_htdemucs", ()),
    ("v5e:2x4", "unet_4stems", ()),
    ("v5e:2x4", "unet_5stems", ()),
    ("v5e:4x4", "unet_2stems", ("training.compute_dtype=bfloat16",)),
)

_COLLECTIVE = re.compile(
    r" = (?P<types>\(.*?\)|\S+) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)
_ARRAY = re.compile(r"\b(?:pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<shape>[\d,]*)\]")


def describe_program(config: RunConfig, devices: Sequence[jax.Device], *, examples: int) -> dict[str, Any]:
    """Compiles the replicated step of a recipe and tells what the compiler says of it.

    Args:
        config: The recipe; its batch is `examples` on each device.
        devices: Of all hosts; none of them needs to be there.
        examples: On each device.

    Returns:
        Bytes and operations on one device, ready for JSON. The compiler counts the zeros of dilated convolutions too.
    """
    program, *shapes = step_shapes(config, (len(devices), examples))
    step: Any = replicate_step(program.step, list(devices))
    compiled = step.lower(*shapes).compile()
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
    }


def describe_what_fits(config: RunConfig, devices: Sequence[jax.Device], *, examples: int) -> dict[str, Any]:
    """Describes the replicated step with as many examples on each device as its memory holds.

    Args:
        config: The recipe.
        devices: See `describe_program`.
        examples: On each device at most; halved until the program fits.

    Returns:
        See `describe_program`; beside it what the compiler said of batches that do not fit, by their examples on each
        device, if there are any.
    """
    too_large: dict[str, str] = {}
    while True:
        try:
            described = describe_program(config, devices, examples=examples)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or examples == 1:
                raise
            too_large[str(examples)] = str(error).splitlines()[0]
            examples //= 2
        else:
            return described | ({"too_large": too_large} if too_large else {})


def rows_before(output: Path, versions: dict[str, str]) -> list[dict[str, Any]]:
    """Returns the rows of an earlier report, if there is one and the same versions made it."""
    if not output.exists():
        return []
    before = json.loads(output.read_text())
    return before["programs"] if before["versions"] == versions else []


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
    """Compiles the programs and writes one JSON file, row by row."""
    parser = argparse.ArgumentParser(prog="python -m train.tpu_programs", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--examples", type=int, default=4, help="on each chip at most (default 4)")
    parser.add_argument(
        "--recipe", action="append", help="one of configs/, without ending; may be repeated (default all)"
    )
    parser.add_argument("--go-on", action="store_true", help="keep the rows that the file has, made by these versions")
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
    if arguments.go_on:
        report["programs"] = rows_before(arguments.output, report["versions"])
    made = {(row["topology"], row["recipe"], *row["overrides"]) for row in report["programs"]}
    for topology, name, overrides in PROGRAMS:
        asked_for = arguments.recipe is None or name in arguments.recipe
        if not asked_for or (topology, name, *overrides) in made:
            continue
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology, **TOPOLOGIES[topology])
        row: dict[str, Any] = {"topology": topology, "recipe": name, "overrides": list(overrides)}
        root = () if name == "smoke" else ("data.root=nowhere",)
        config = load_config(_RECIPES / f"{name}.yaml", [*root, *overrides])
        try:
            row |= describe_what_fits(config, described.devices, examples=arguments.examples)
        except jax.errors.JaxRuntimeError as error:
            row["refused"] = str(error).splitlines()[0]
        report["programs"].append(row)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")
        _LOG.info("%s", json.dumps(row))


if __name__ == "__main__":
    main()
