"""Legs of comparisons: each in a process of its own, on equal terms. What a leg measures is in speed_leg and study_leg.

A leg's module is run as `python -m MODULE LEG.json RESULT.json`. No framework is imported here, JAX neither: their
imports are measured.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from jaxsep import unfinished
from jaxsep.config import Config
from jaxsep.errors import JaxsepError

LegType = TypeVar("LegType", bound=Config)

# What is compared, by the names that reports give it, in their order: the package that is imported.
PACKAGES = {
    "jax": "jax",
    "torch": "torch",
    "torch-compile": "torch",
    "tensorflow": "tensorflow",
    "tensorflow-function": "tensorflow",
}


def run_leg(module: str, leg: Config, *, framework: str, threads: int) -> dict[str, Any]:
    """Returns what a process of its own measures, or {'refused': why it could not}.

    Args:
        module: That has the leg's `main`.
        leg: What is measured.
        framework: A name of `PACKAGES`.
        threads: Of the framework.
    """
    package = PACKAGES[framework]
    if importlib.util.find_spec(package) is None:
        return {"refused": f"the package '{package}' is not installed here"}
    with unfinished.temporary_folder(f"{framework} cannot be run in a process of its own") as folder:
        order, result = folder / "leg.json", folder / "result.json"
        order.write_text(leg.model_dump_json())
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            # TensorFlow's notes on its start; errors still come.
            "TF_CPP_MIN_LOG_LEVEL": "2",
            # The twins run on the CPU, so ours does; where a GPU is, TensorFlow too must leave it alone.
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
        }
        command = [sys.executable, "-m", module, str(order), str(result)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            return {"refused": f"it failed: {lines[-1][:300]}"}
        return json.loads(result.read_text())


def limit_processors(threads: int) -> None:
    """Takes as many processors as threads: XLA has no option for its threads, and takes one for each processor."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def as_leg(kind: type[LegType], measure: Callable[[LegType], dict[str, Any]]) -> None:
    """Reads a leg, measures it and writes what came of it; a refusal is written as {'refused': sentence}.

    Args:
        kind: Of the leg, whose file is the process's first argument; the result's file is its second.
        measure: What is done.
    """
    order, result = map(Path, sys.argv[1:])
    try:
        measured = measure(kind.parse(json.loads(order.read_text()), where="a leg"))
    except JaxsepError as error:
        measured = {"refused": str(error)}
    result.write_text(json.dumps(measured))
