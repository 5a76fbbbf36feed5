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
from jaxsep.cli.streams import console, warnings_unless
from jaxsep.errors import ConfigError, JaxsepError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxsep.evaluation.evaluate import System
    from jaxsep.evaluation.report import Report
    from jaxsep.evaluation.scoring import ScoringJob
    from jaxsep.evaluation.tracks import TrueTrack
    from jaxsep.separation.options import SeparationOptions

SOME_TRACK_FAILED = 1

_WHAT, _DATA, _HOW, _RUN = "What is evaluated", "On what", "How it is scored", "The run"


def evaluate(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            metavar="[NAME=]MODEL",
            help="Separate with this: a name from `jaxsep models`, a checkpoint, or a training run. May be repeated.",
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
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="Stems on disk: TRACK/STEM.wav, or test/TRACK/STEM.wav. May be repeated.",
            rich_help_panel=_WHAT,
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
            help="bss-eval (v4), museval (the same by museval itself), sdr (whole track, as in MDX), si-sdr, si-sir, "
            "si-sar, log-wmse, spectral-distance (multi-resolution STFT), bleedless, fullness.",
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
    join: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Show scores that another tool made too: columns system, track, stem, and one for each metric.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    lower_is_better: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Metrics of --join of which less is better.", rich_help_panel=_HOW),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Show groups of tracks too: a column track, and others to group by, such as genre.",
            rich_help_panel=_HOW,
        ),
    ] = None,
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
    """Score models, and stems on disk, against true sources.

    Writes a record for each track, which museval's tools read too, and reports: all scores and averages, systems beside
    each other and their paired differences, as JSON, CSV, Markdown, LaTeX and HTML. Systems are shown in the order of
    --model, --estimates and --baselines. A run that was interrupted goes on where it stopped when it is started again.
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
    if estimates and not model and options.changed:
        raise ConfigError(
            "--estimates are scored as they are: options of how a model separates go with --model, which is not given."
        )
    if lower_is_better is not None and join is None:
        raise ConfigError("--lower-is-better names metrics of --join, which is not given.")
    if musdb is None and (hq or subset != "test"):
        raise ConfigError("--hq and --subset are of MUSDB18, and go with --musdb.")
    if subset not in ("test", "train"):
        raise ConfigError(f"--subset is '{subset}'; give test or train.")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"'{output}' is not a directory; name one with --output.")
    from jaxsep.evaluation.evaluate import baseline
    from jaxsep.evaluation.evaluate import evaluate as run
    from jaxsep.evaluation.joined import read_groups, read_scores
    from jaxsep.evaluation.report import check_replaceable, make_report, report_paths, write_reports
    from jaxsep.evaluation.scoring import ALL_METRICS, Settings
    from jaxsep.evaluation.tracks import find_folders, find_musdb

    chosen = _names("--metrics", metrics)
    for metric in chosen:
        if metric not in ALL_METRICS:
            raise ConfigError(f"There is no metric '{metric}'.{nearest(metric, ALL_METRICS)}")
    others = [baseline(name) for name in _names("--baselines", baselines)] if baselines is not None else []
    wanted = None if stems is None else _names("--stems", stems)
    with warnings_unless(quiet):
        if musdb is not None:
            songs = find_musdb(musdb, subset, is_wav=hq)
        else:
            assert tracks is not None
            songs = find_folders(tracks)
    models = list(model or ())
    if not models and not estimates and (options.changed or not others):
        models = ["spleeter-2stems"]
    with warnings_unless(quiet):
        systems, wanted = _systems(
            models, list(estimates or ()), options, device, wanted, songs, subset if musdb is not None else None, quiet
        )
    source_set = tuple(songs[0].parts) if wanted is None else wanted
    for song in songs:
        song.sources(source_set)
    settings = Settings.parse(
        {"metrics": chosen, "stems": source_set, "window_seconds": window, "hop_seconds": hop}, where="the command line"
    )
    if not overwrite:
        check_replaceable(output)
    replaced = [path for path in report_paths(output) if overwrite or path.exists()]
    names = [system.name for system in (*systems, *others)]
    song_names = [song.name for song in songs]
    joined = [] if join is None else read_scores(join, names, song_names, source_set)
    lower = frozenset(_names("--lower-is-better", lower_is_better)) if lower_is_better is not None else frozenset()
    if unknown := lower - {score.metric for score in joined}:
        raise ConfigError(f"--lower-is-better names '{min(unknown)}', which is no metric of '{join}'.")
    by_group = None if groups is None else read_groups(groups, song_names)
    show = _Progress(quiet)
    try:
        records, failures = run(
            songs, [*systems, *others], settings, output, jobs=jobs, overwrite=overwrite, progress=show
        )
    finally:
        show.end()
    if records:
        report = make_report(records, joined=joined, groups=by_group, lower_is_better=lower)
        files = write_reports(report, output, replaced=replaced)
        if not quiet:
            _print(report, output, files[-1])
    return SOME_TRACK_FAILED if failures else 0


def _print(report: "Report", output: Path, page: Path) -> None:
    """Prints the averages of one system, or several systems beside each other, and what has to be known of them."""
    from jaxsep.evaluation.tables import aggregate_table, as_rich, comparison_tables

    shown = console(width=None if sys.stdout.isatty() else 10_000)
    if len(report.data["systems"]) == 1:
        shown.print(as_rich(aggregate_table(report.rows)))
    else:
        for table in comparison_tables(report.comparison):
            shown.print(f"{table.caption}\n", as_rich(table), "", sep="")
    for warning in report.data["warnings"]:
        print(f"\n{warning}")
    print(f"\nRatios are in dB; frames first, then tracks. Records and reports are in {output}, such as {page}")


def _systems(
    models: "Sequence[str]",
    estimates: "Sequence[str]",
    options: "SeparationOptions",
    device: DeviceKind,
    stems: "tuple[str, ...] | None",
    songs: "Sequence[TrueTrack]",
    subset: str | None,
    quiet: bool,
) -> "tuple[list[System], tuple[str, ...] | None]":
    """Returns models and stems on disk as systems, with the source set that all of them have."""
    from jaxsep.evaluation.evaluate import estimates_on_disk

    found: list[tuple[System, tuple[str, ...]]] = []
    for value in models:
        name, model = _split_name("--model", value)
        found.append(_model_system(model, options, device, stems, quiet, name))
    for value in estimates:
        name, folder = _split_name("--estimates", value)
        found.append(estimates_on_disk(Path(folder), songs, subset, stems, name=name))
    for system, own in found[1:]:
        if set(own) != set(found[0][1]):
            raise ConfigError(
                f"'{found[0][0].name}' has the stems {', '.join(found[0][1])} and '{system.name}' {', '.join(own)}; "
                "name those to compare with --stems."
            )
    return [system for system, _ in found], found[0][1] if found else stems


def _split_name(option: str, value: str) -> tuple[str | None, str]:
    """Returns the name of NAME=WHAT, or None, and what it names; a path that has an equals sign is a path."""
    name, equals, rest = value.partition("=")
    if not equals or Path(value).exists():
        return None, value
    if not rest or name != name.strip(". ") or not name or {"/", "\\"} & set(name):
        raise ConfigError(f"{option} is '{value}'; give NAME=, a name that can be a folder's, and what it names.")
    return name, str(Path(rest).expanduser()) if rest.startswith("~") else rest


def _names(option: str, value: str) -> tuple[str, ...]:
    from jaxsep.evaluation.tracks import as_one_text

    names = tuple(as_one_text(name.strip()) for name in value.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise ConfigError(f"{option} is '{value}'; give one or more different names, separated by commas.")
    return names


def _model_system(
    model: str,
    options: "SeparationOptions",
    device: DeviceKind,
    stems: "Sequence[str] | None",
    quiet: bool,
    name: str | None,
) -> "tuple[System, tuple[str, ...]]":
    weights = find_model(model, quiet=quiet)
    jax_device = choose_device(device)
    use_compilation_cache()
    from jaxsep.evaluation.separated import model_system
    from jaxsep.weights.runs import is_saved_state

    # A run that is still going on may have another best checkpoint by now.
    chosen = weights if is_saved_state(weights) else model
    return model_system(chosen, options=options, stems=stems, device=jax_device, name=name)


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
