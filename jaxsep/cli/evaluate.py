"""`jaxsep evaluate`: options, what is refused before any work, one run, and the table of its scores."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxsep.cli.runtime import DeviceKind, choose_device, find_model, use_compilation_cache
from jaxsep.cli.separation_options import (
    ChunkOption,
    Filter,
    FilterOption,
    OverlapOption,
    Precision,
    PrecisionOption,
    SeedOption,
    ShiftsOption,
    WienerIterationsOption,
    WienerOption,
    separation_options,
)
from jaxsep.cli.streams import console
from jaxsep.errors import ConfigError, JaxsepError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxsep.evaluation.evaluate import System
    from jaxsep.evaluation.scoring import ScoringJob
    from jaxsep.separation.options import SeparationOptions

SOME_TRACK_FAILED = 1

_WHAT, _DATA, _HOW, _RUN = "What is evaluated", "On what", "How it is scored", "The run"


def evaluate(
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            help="Separate with this: a name from `jaxsep models`, a checkpoint, or a training run.",
            show_default="spleeter-2stems, where neither --estimates nor --baselines is given",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    chunk: ChunkOption = None,
    overlap: OverlapOption = None,
    shifts: ShiftsOption = None,
    seed: SeedOption = 0,
    filter: FilterOption = Filter.auto,
    wiener: WienerOption = False,
    wiener_iterations: WienerIterationsOption = None,
    precision: PrecisionOption = Precision.float32,
    estimates: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Stems on disk: TRACK/STEM.wav, or test/TRACK/STEM.wav.", rich_help_panel=_WHAT
        ),
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Also: mixture, and SiSEC 2018's oracles irm1, irm2 (ratio masks), ibm1 (binary mask), mwf.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    musdb: Annotated[
        Path | None,
        typer.Option(metavar="ROOT", help="MUSDB18: the folder above 'train' and 'test'.", rich_help_panel=_DATA),
    ] = None,
    hq: Annotated[bool, typer.Option("--hq", help="ROOT is MUSDB18-HQ.", rich_help_panel=_DATA)] = False,
    subset: Annotated[str, typer.Option(metavar="test|train", help="Of MUSDB18.", rich_help_panel=_DATA)] = "test",
    tracks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="A folder for each track with a file for each true source.", rich_help_panel=_DATA
        ),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="bss-eval (v4), museval (the same by museval itself), sdr (whole track, as in MDX), si-sdr.",
            rich_help_panel=_HOW,
        ),
    ] = "bss-eval,sdr,si-sdr",
    stems: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="The source set, on which ISR, SIR and SAR depend.",
            show_default="all that are estimated",
            rich_help_panel=_HOW,
        ),
    ] = None,
    window: Annotated[float, typer.Option(metavar="SECONDS", help="Frames of BSS Eval.", rich_help_panel=_HOW)] = 1.0,
    hop: Annotated[
        float, typer.Option(metavar="SECONDS", help="From one frame to the next.", rich_help_panel=_HOW)
    ] = 1.0,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where records and reports go.", rich_help_panel=_RUN)
    ] = Path("evaluation"),
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Score again what was scored with other settings.", rich_help_panel=_RUN),
    ] = False,
    jobs: Annotated[
        int, typer.Option("-j", "--jobs", metavar="N", min=1, help="Tracks at the same time.", rich_help_panel=_RUN)
    ] = 1,
    device: Annotated[DeviceKind, typer.Option(help="Where a model runs.", rich_help_panel=_RUN)] = DeviceKind.auto,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.", rich_help_panel=_RUN)] = False,
) -> int:
    """Score a model, or stems on disk, against true sources.

    Writes a record for each track, which museval's tools read too, and scores.json, summary.csv, tracks.csv, summary.md
    and report.html. A run that was interrupted goes on where it stopped when it is started again.
    """
    if (musdb is None) == (tracks is None):
        raise ConfigError("Give the true sources by one of --musdb ROOT and --tracks DIR.")
    options = separation_options(
        chunk=chunk,
        overlap=overlap,
        shifts=shifts,
        seed=seed,
        filter=filter,
        wiener=wiener,
        wiener_iterations=wiener_iterations,
        precision=precision,
    )
    if estimates is not None and (model is not None or options.changed):
        raise ConfigError(
            "--estimates are scored as they are, and go neither with --model nor with options of how it separates."
        )
    if musdb is None and (hq or subset != "test"):
        raise ConfigError("--hq and --subset are of MUSDB18, and go with --musdb.")
    if subset not in ("test", "train"):
        raise ConfigError(f"--subset is '{subset}'; give test or train.")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"'{output}' is not a directory; name one with --output.")
    from jaxsep.evaluation.evaluate import baseline, estimates_on_disk
    from jaxsep.evaluation.evaluate import evaluate as run
    from jaxsep.evaluation.report import aggregate, as_table, check_replaceable, track_scores, write_reports
    from jaxsep.evaluation.scoring import ALL_METRICS, Settings
    from jaxsep.evaluation.tracks import find_folders, find_musdb

    chosen = _names("--metrics", metrics)
    for metric in chosen:
        if metric not in ALL_METRICS:
            raise ConfigError(f"There is no metric '{metric}'.{nearest(metric, ALL_METRICS)}")
    others = [baseline(name) for name in _names("--baselines", baselines)] if baselines is not None else []
    wanted = None if stems is None else _names("--stems", stems)
    if musdb is not None:
        songs = find_musdb(musdb, subset, is_wav=hq)
    else:
        assert tracks is not None
        songs = find_folders(tracks)
    systems: list[System] = []
    if estimates is not None:
        system, wanted = estimates_on_disk(estimates, songs, subset if musdb is not None else None, wanted)
        systems.append(system)
    elif model is not None or options.changed or not others:
        system, wanted = _model_system(model or "spleeter-2stems", options, device, wanted, quiet)
        systems.append(system)
    source_set = tuple(songs[0].parts) if wanted is None else wanted
    for song in songs:
        song.sources(source_set)
    settings = Settings.parse(
        {"metrics": chosen, "stems": source_set, "window_seconds": window, "hop_seconds": hop}, where="the command line"
    )
    if not overwrite:
        check_replaceable(output)
    show = _Progress(quiet)
    try:
        records, failures = run(
            songs, [*systems, *others], settings, output, jobs=jobs, overwrite=overwrite, progress=show
        )
    finally:
        show.end()
    if records:
        files = write_reports(records, output)
        if not quiet:
            width = None if sys.stdout.isatty() else 10_000
            console(width=width).print(as_table(aggregate(track_scores(records))))
            print(f"\nIn dB; frames first, then tracks. Records and reports are in {output}, such as {files[-1]}")
    return SOME_TRACK_FAILED if failures else 0


def _names(option: str, value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise ConfigError(f"{option} is '{value}'; give one or more different names, separated by commas.")
    return names


def _model_system(
    model: str, options: "SeparationOptions", device: DeviceKind, stems: "Sequence[str] | None", quiet: bool
) -> "tuple[System, tuple[str, ...]]":
    weights = find_model(model, quiet=quiet)
    jax_device = choose_device(device)
    use_compilation_cache()
    from jaxsep.evaluation.separated import model_system
    from jaxsep.weights.runs import is_saved_state

    # A run that is still going on may have another best checkpoint by now.
    chosen = weights if is_saved_state(weights) else model
    return model_system(chosen, options=options, stems=stems, device=jax_device)


class _Progress:
    """A bar where stderr is a terminal, and a line for each track that fails."""

    def __init__(self, quiet: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        shown = console(stderr=True, quiet=quiet)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal)
        self._task = self._bar.add_task("scoring", total=None)
        self._bar.start()

    def __call__(self, job: "ScoringJob", failure: JaxsepError | None, total: int) -> None:
        if failure is not None:
            self._bar.stop()
            print(f"jaxsep: {failure}", file=sys.stderr)
            self._bar.start()
        self._bar.update(self._task, advance=1, total=total, description=f"{job.system}: {job.track.name}")

    def end(self) -> None:
        self._bar.stop()
