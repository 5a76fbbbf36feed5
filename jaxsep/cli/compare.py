"""`jaxsep compare speed`: the same network in several frameworks, side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from jaxsep.errors import ConfigError, JaxsepError, nearest

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
    from jaxsep.compare.frameworks import processors
    from jaxsep.compare.legs import PACKAGES
    from jaxsep.compare.speed import TASKS, measure_speed, to_markdown

    chosen = tuple(name.strip() for name in frameworks.split(","))
    for name in chosen:
        if name not in PACKAGES:
            raise ConfigError(f"There is no framework '{name}'.{nearest(name, PACKAGES)}")
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


def study(
    config: Annotated[Path, typer.Argument(help="A study, such as configs/study_smoke.yaml.", show_default=False)],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of its keys, such as data.root=songs.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A folder for runs and reports; the same command goes on in it.")
    ] = Path("study"),
) -> None:
    """Train the same network in several frameworks, from the same weights on the same batches, and compare scores."""
    from jaxsep.compare.study_config import load_study
    from jaxsep.evaluation.plots import require_matplotlib

    chosen = load_study(config, tuple(changes or ()))
    require_matplotlib()
    from jaxsep.compare.study import run_study
    from jaxsep.compare.study_report import to_markdown, write_study

    runs, known = run_study(chosen, output, tell=lambda line: print(line, flush=True))
    summary, files = write_study(chosen, runs, known, output)
    print(to_markdown(summary))
    print(f"{files[-1]} has it with pictures.")
    reasons = list(dict.fromkeys(run["refused"] for run in runs if "refused" in run))
    if reasons:
        raise JaxsepError(f"Not all runs could be made: {reasons[0]}")
