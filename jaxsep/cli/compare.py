"""`jaxsep compare`: the same network in several frameworks, side by side: how fast they are, and how far apart."""

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from jaxsep.cli.runtime import DeviceKind, start_jax
from jaxsep.errors import ConfigError, JaxsepError, nearest

BEYOND_THRESHOLD = 1
TWIN_FRAMEWORKS = ("torch", "tensorflow")
# What twins are made with, whose versions are in the report.
TWIN_PACKAGES = ("torch", "tensorflow", "tensorflow-cpu", "keras")


def speed(
    model: Annotated[
        str, typer.Argument(help="A name from `jaxsep models`, or a checkpoint.", show_default=True)
    ] = "spleeter-2stems",
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for speed.json and speed.md.")] = Path(
        "compared"
    ),
    member: Annotated[int | None, typer.Option(min=0, help="Which model of an ensemble, from 0.")] = None,
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
    _check_output(output, "speed", overwrite=overwrite)
    if task not in ("inference", "training", "both"):
        raise ConfigError(f"--task is '{task}'; give 'inference', 'training' or 'both'.")
    from jaxsep.cli.runtime import find_model
    from jaxsep.compare.legs import PACKAGES
    from jaxsep.compare.reports import write_report
    from jaxsep.compare.speed import TASKS, measure_speed, to_markdown
    from jaxsep.environment import processors
    from jaxsep.weights.pretrained import read_one_spec

    chosen = tuple(name.strip() for name in frameworks.split(","))
    for name in chosen:
        if name not in PACKAGES:
            raise ConfigError(f"There is no framework '{name}'.{nearest(name, PACKAGES)}")
    if threads is not None and threads > processors():
        raise ConfigError(f"--threads is {threads}, and there are {processors()} processors.")
    read_one_spec(find_model(model), member=member)
    start_jax()
    report = measure_speed(
        model,
        member=member,
        frameworks=chosen,
        tasks=TASKS if task == "both" else (task,),
        batch_size=batch_size,
        threads=threads,
        rounds=rounds,
        repeats=repeats,
        tell=lambda line: print(line, flush=True),
    )
    text = to_markdown(report)
    write_report(output, "speed", report, text, overwrite=overwrite)
    print(text)


def parity(
    model: Annotated[str, typer.Argument(help="A name from `jaxsep models`, or a checkpoint.")],
    other: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="torch|tensorflow|spleeter|demucs|PATH",
            help="A twin with the same weights, Spleeter's or Demucs's own command, a checkpoint of jaxsep's or of "
            "others, or a folder of stems that another tool wrote.",
        ),
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[INPUT]...",
            help="Audio files, or folders with a file for each true source.",
            show_default="noise and tones",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for parity.json and parity.md.")] = Path(
        "compared"
    ),
    offset: Annotated[float, typer.Option(metavar="SECONDS", min=0.0, help="Where excerpts start.")] = 0.0,
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.0, help="How long excerpts are at most; 0 for all.")
    ] = 12.0,
    threshold: Annotated[
        float, typer.Option(min=0.0, help="Of the network's output over a track: max|a-b| / max|b|.")
    ] = 1e-5,
    threshold_db: Annotated[
        float | None,
        typer.Option(
            help="Of stems: their difference relative to the mixture.",
            show_default="-80; -70 with files, -50 with those of weights that we have in float16",
        ),
    ] = None,
    spleeter: Annotated[str, typer.Option(metavar="COMMAND", help="Spleeter's command, or its path.")] = "spleeter",
    command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Command of --with demucs, or its path.",
            show_default="the package that is installed here, or 'demucs'",
        ),
    ] = None,
    device: Annotated[DeviceKind, typer.Option(help="Where our model runs; twins run on the CPU.")] = DeviceKind.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that is there.")] = False,
) -> int:
    """Compare a model with the same weights elsewhere: layers, network, audio, scores, and weights both ways.

    Ends with status 1 where a threshold is exceeded; the report is written either way.
    """
    _check_output(output, "parity", overwrite=overwrite)
    from jaxsep.cli.runtime import choose_device, find_model, use_compilation_cache
    from jaxsep.compare.excerpts import find_tracks
    from jaxsep.compare.networks import JaxNetwork
    from jaxsep.compare.other_stems import EnsembleStems
    from jaxsep.compare.parity import Thresholds, measure_parity
    from jaxsep.compare.parity_report import to_markdown
    from jaxsep.compare.reports import circumstances, write_report
    from jaxsep.compare.sides import check_side, default_threshold_db, find_excerpts, find_side
    from jaxsep.separation.ensemble import Ensemble
    from jaxsep.separation.models import load_model

    check_side(other)
    if other in TWIN_FRAMEWORKS and importlib.util.find_spec(other) is None:
        raise ConfigError(f"The package '{other}' is not installed here; pip install 'jaxsep[compare]'.")
    tracks = find_tracks(inputs or [])
    path = find_model(model)
    jax_device = choose_device(device)
    loaded = load_model(path)
    use_compilation_cache()
    ours: JaxNetwork | EnsembleStems
    if isinstance(loaded, Ensemble):
        ours = EnsembleStems(loaded, jax_device)
        families = sorted({member.family for member in loaded.spec.members})
    else:
        ours = JaxNetwork(loaded.spec, loaded.variables, jax_device)
        families = [loaded.spec.family]
    side = find_side(other, loaded, tracks, spleeter_command=spleeter, command=command, device=jax_device)
    limit_db = default_threshold_db(ours, side) if threshold_db is None else threshold_db
    measured = measure_parity(
        ours,
        side,
        find_excerpts(tracks, loaded.spec, offset_seconds=offset, seconds=seconds),
        Thresholds(output=threshold, difference_db=limit_db),
        tell=lambda line: print(line, flush=True),
    )
    head = {"model": model, "family": ", ".join(families), "sha256": loaded.sha256, "with": other}
    report = {**circumstances(TWIN_PACKAGES), **head, **measured}
    text = to_markdown(report)
    write_report(output, "parity", report, text, overwrite=overwrite)
    print(text)
    for sentence in report["exceeded"]:
        print(f"jaxsep: {sentence}", file=sys.stderr)
    return BEYOND_THRESHOLD if report["exceeded"] else 0


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
    start_jax()
    from jaxsep.compare.study import run_study
    from jaxsep.compare.study_report import REPORTS, to_markdown, write_study

    replaced = [path for path in (output / name for name in REPORTS) if path.exists()]
    runs, known = run_study(chosen, output, tell=lambda line: print(line, flush=True))
    summary, files = write_study(chosen, runs, known, output, replaced=replaced)
    print(to_markdown(summary))
    print(f"{files[-1]} has it with pictures.")
    reasons = list(dict.fromkeys(run["refused"] for run in runs if "refused" in run))
    if reasons:
        raise JaxsepError(f"Not all runs could be made: {reasons[0]}")


def _check_output(folder: Path, name: str, *, overwrite: bool) -> None:
    """Refuses to replace a report, and a folder that is none.

    Raises:
        ConfigError: A report is there, or something that is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"'{folder}' is not a directory; name one with --output.")
    for path in (folder / f"{name}.json", folder / f"{name}.md"):
        if path.exists() and not overwrite:
            raise ConfigError(f"'{path}' exists; use --overwrite to replace it.")
