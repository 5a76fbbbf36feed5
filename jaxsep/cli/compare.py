"""`jaxsep compare speed`: the same network in several frameworks, side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from jaxsep.errors import ConfigError, nearest

REPORT_JSON, REPORT_MARKDOWN = "speed.json", "speed.md"


def speed(
    model: Annotated[
        str, typer.Argument(help="A name from `jaxsep models`, or a checkpoint.", show_default=True)
    ] = "spleeter-2stems",
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for speed.json and speed.md.")] = Path(
        "compared"
    ),
    frameworks: Annotated[
        str, typer.Option(metavar="NAME,...", help="Which, separated by commas.")
    ] = "jax,torch,torch-compile,tensorflow,tensorflow-function",
    task: Annotated[str, typer.Option(metavar="inference|training|both", help="What is timed.")] = "both",
    batch_size: Annotated[int, typer.Option(min=1, help="Segments in a call.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each framework.", show_default="all processors")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each framework, by turns.")] = 3,
    repeats: Annotated[int, typer.Option(min=1, help="Counted calls in each process.")] = 10,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that is there.")] = False,
) -> None:
    """Time the same network with the same weights in JAX, PyTorch and TensorFlow, each in a process of its own."""
    for name in (REPORT_JSON, REPORT_MARKDOWN):
        if (output / name).exists() and not overwrite:
            raise ConfigError(f"'{output / name}' exists; use --overwrite to replace it.")
    if task not in ("inference", "training", "both"):
        raise ConfigError(f"--task is '{task}'; give 'inference', 'training' or 'both'.")
    from jaxsep.cli.runtime import find_model
    from jaxsep.compare.frameworks import FRAMEWORKS, processors
    from jaxsep.compare.speed import TASKS, measure_speed, to_markdown

    chosen = tuple(name.strip() for name in frameworks.split(","))
    for name in chosen:
        if name not in FRAMEWORKS:
            raise ConfigError(f"There is no framework '{name}'.{nearest(name, FRAMEWORKS)}")
    if threads is not None and threads > processors():
        raise ConfigError(f"--threads is {threads}, and there are {processors()} processors.")
    find_model(model)
    report = measure_speed(
        model,
        frameworks=chosen,
        tasks=TASKS if task == "both" else (task,),
        batch_size=batch_size,
        threads=threads,
        rounds=rounds,
        repeats=repeats,
        tell=lambda line: print(line, flush=True),
    )
    text = to_markdown(report)
    output.mkdir(parents=True, exist_ok=True)
    for name, content in ((REPORT_JSON, json.dumps(report, indent=2) + "\n"), (REPORT_MARKDOWN, text)):
        unfinished = output / f"{name}.tmp"
        unfinished.write_text(content)
        unfinished.rename(output / name)
    print(text)
