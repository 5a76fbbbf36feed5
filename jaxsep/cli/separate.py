"""`jaxsep separate`: options, what is refused before any work, and one run over all inputs.

The run itself is in separate_run.py; what it did is told in separate_report.py.
"""

import io
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxsep import unfinished
from jaxsep.cli.runtime import (
    CompilationCounter,
    DeviceKind,
    choose_device,
    find_model,
    keep_programs,
)
from jaxsep.cli.separate_report import check_report_path, make_report, summarise, write_report
from jaxsep.cli.separate_run import run_all
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
    validated,
)
from jaxsep.errors import ConfigError

if TYPE_CHECKING:
    from jaxsep.separation.outputs import OutputConfig

DEFAULT_MODEL = "spleeter-2stems"
SOME_INPUT_FAILED = 1

# The options by the keys of OutputConfig that they set, where the names differ.
_OPTIONS = {
    "bitrate_kbps": "--bitrate",
    "offset_seconds": "--offset",
    "duration_seconds": "--duration",
}


class Format(StrEnum):
    """Format of the stems' files."""

    wav = "wav"
    flac = "flac"
    ogg = "ogg"
    mp3 = "mp3"


class Subtype(StrEnum):
    """Sample format of wav and flac."""

    PCM_16 = "PCM_16"
    PCM_24 = "PCM_24"
    FLOAT = "FLOAT"


class Consistency(StrEnum):
    """Whether stems are made to sum to the mixture."""

    none = "none"
    project = "project"


class OtherMethod(StrEnum):
    """Ways to make the second file of --two-stems."""

    minus = "minus"
    add = "add"


class Clip(StrEnum):
    """What happens to samples beyond full scale."""

    none = "none"
    rescale = "rescale"
    clamp = "clamp"


# Options by what they are about, as the help shows them.
_WHAT, _HOW, _WHERE, _RUN = "What is written", "How it is separated", "Where it goes", "The run"


def separate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Audio or video files, directories of them, @LIST (a file with one path on each line), "
            "or - for standard input.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the stems go.", rich_help_panel=_WHERE)] = Path(
        "separated"
    ),
    filename: Annotated[
        str,
        typer.Option(
            help="Path of each stem below the output directory; also {suffix} (of the input), {parent} and {model}.",
            rich_help_panel=_WHERE,
        ),
    ] = "{track}/{stem}.{ext}",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.", rich_help_panel=_WHERE)
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Leave inputs alone whose stems are all there, complete and of the right length.",
            rich_help_panel=_WHERE,
        ),
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            "-m", "--model", help="A name from `jaxsep models`, a checkpoint, or a training run.", rich_help_panel=_HOW
        ),
    ] = DEFAULT_MODEL,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="best|latest|STEP",
            help="Of a training run: which of its checkpoints.",
            show_default="best",
            rich_help_panel=_HOW,
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
    offset: Annotated[
        float, typer.Option(metavar="SECONDS", help="Where in each input to start.", rich_help_panel=_HOW)
    ] = 0.0,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="How much of each input to separate.", show_default="all", rich_help_panel=_HOW
        ),
    ] = None,
    audio_track: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Which audio track of each input to separate, counted from 1.",
            show_default="its default one",
            rich_help_panel=_HOW,
        ),
    ] = None,
    stems: Annotated[
        str | None,
        typer.Option(metavar="STEM,...", help="Write only these stems.", show_default="all", rich_help_panel=_WHAT),
    ] = None,
    two_stems: Annotated[
        str | None,
        typer.Option(
            metavar="STEM",
            help="Write this stem, and all else as no_STEM.",
            show_default="none",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    other_method: Annotated[
        OtherMethod,
        typer.Option(
            help="What no_STEM is: the mixture minus the stem, or the sum of the other stems.", rich_help_panel=_WHAT
        ),
    ] = OtherMethod.minus,
    residual: Annotated[
        bool,
        typer.Option(
            "--residual", help="Also write 'residual': the mixture minus the stems written.", rich_help_panel=_WHAT
        ),
    ] = False,
    consistency: Annotated[
        Consistency,
        typer.Option(help="'project' makes all stems sum to the mixture.", rich_help_panel=_WHAT),
    ] = Consistency.none,
    format: Annotated[Format, typer.Option(help="Format of the files.", rich_help_panel=_WHAT)] = Format.wav,
    subtype: Annotated[
        Subtype | None,
        typer.Option(help="Sample format of wav and flac.", show_default="as the input", rich_help_panel=_WHAT),
    ] = None,
    bitrate: Annotated[
        int | None,
        typer.Option(
            metavar="KBPS",
            help="Of mp3 and ogg.",
            show_default="320 or the highest there is",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    sample_rate: Annotated[
        str, typer.Option(metavar="input|model|HZ", help="Of the stems.", rich_help_panel=_WHAT)
    ] = "input",
    clip: Annotated[
        Clip,
        typer.Option(
            help="Beyond full scale: leave it, one lower gain for all stems, or limit each sample.",
            rich_help_panel=_WHAT,
        ),
    ] = Clip.none,
    device: Annotated[
        DeviceKind, typer.Option(help="Where to run; never falls back in silence.", rich_help_panel=_RUN)
    ] = DeviceKind.auto,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Chunks at a time.", show_default="what the device likes", rich_help_panel=_RUN
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Write what was done, how fast, with what.",
            show_default="none",
            rich_help_panel=_RUN,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.", rich_help_panel=_RUN)] = False,
) -> int:
    """Separate songs into stems.

    `jaxsep separate a/song.mp3` writes separated/song/vocals.wav and separated/song/accompaniment.wav. Of a directory,
    all that is audio in it and below it is separated, and its folders come again below the output directory.
    """
    if overwrite and skip_existing:
        raise ConfigError("--overwrite and --skip-existing contradict each other; use one of them.")
    if two_stems is not None and (stems is not None or residual):
        raise ConfigError("--two-stems says which stems are written, and goes neither with --stems nor --residual.")
    if two_stems is None and other_method is OtherMethod.add:
        raise ConfigError("--other-method says what is beside the stem of --two-stems; name that stem.")
    config = _output_config(
        {
            "format": format.value,
            "subtype": subtype.value if subtype else None,
            "bitrate_kbps": bitrate,
            "sample_rate": _rate(sample_rate),
            "offset_seconds": offset,
            "duration_seconds": duration,
            "audio_track": audio_track,
            "filename": filename,
            "stems": _selected_stems(stems),
            "two_stems": two_stems,
            "other_method": other_method.value,
            "residual": residual,
            "consistency": consistency.value,
            "clip": clip.value,
            "existing": "overwrite" if overwrite else "skip" if skip_existing else "refuse",
        }
    )
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
    from jaxsep.separation.inputs import find_inputs

    if output.exists() and not output.is_dir():
        raise ConfigError(f"'{output}' is not a directory; name one for the stems with --output.")
    with ExitStack() as stack:
        found = find_inputs(inputs, output=output)
        weights = find_model(model, checkpoint, quiet=quiet)
        jax_device = choose_device(device)
        from jaxsep.separation.models import load_separator
        from jaxsep.separation.outputs import plan
        from jaxsep.weights.checkpoint import read_spec
        from jaxsep.weights.runs import is_saved_state

        compilation = CompilationCounter()
        programs = keep_programs(jax_device)
        for number, each in enumerate(found):
            if each.is_stdin:
                found[number] = replace(each, path=stack.enter_context(_kept_stdin()))
        # All that can be refused is refused before the weights are read.
        wanted = config.needed_stems
        spec = options.applied_to(read_spec(weights), wanted)
        jobs = plan(found, output, spec, config)
        if report is not None:
            check_report_path(report, jobs)
        replaces_report = report is not None and (overwrite or report.exists())
        separator = load_separator(
            # A run that is still going on may have another best checkpoint by now.
            weights if is_saved_state(weights) else model,
            stems=wanted,
            **dict(options),
            device=jax_device,
            batch_size=batch_size,
            programs=programs,
        )
        started = time.perf_counter()
        results = run_all(jobs, separator, config, quiet)
        seconds = time.perf_counter() - started
    if report is not None:
        write_report(report, make_report(results, separator, config, compilation), replace=replaces_report)
    if not quiet and (summary := summarise(results, separator.device, output, seconds)):
        print(summary)
    return SOME_INPUT_FAILED if any(result["status"] == "failed" for result in results) else 0


@contextmanager
def _kept_stdin() -> Iterator[Path]:
    """Gives a file that holds all of standard input.

    Raises:
        ConfigError: It is a terminal or empty, or there is no place for it.
    """
    from jaxsep.separation.inputs import STDIN_NAME, spool_stdin

    with unfinished.temporary_folder("Standard input ('-') cannot be kept") as folder:
        path = folder / STDIN_NAME
        # Python has none where the process was started with it closed.
        spool_stdin(sys.stdin.buffer if sys.stdin else io.BytesIO(), path)
        yield path


def _selected_stems(stems: str | None) -> tuple[str, ...] | None:
    if stems is None:
        return None
    chosen = tuple(name.strip() for name in stems.split(","))
    if not all(chosen) or len(set(chosen)) != len(chosen):
        raise ConfigError(f"--stems is '{stems}'; give one or more different names, separated by commas.")
    return chosen


def _rate(sample_rate: str) -> int | str:
    if sample_rate in ("input", "model"):
        return sample_rate
    if sample_rate.isdecimal() and int(sample_rate) > 0:
        return int(sample_rate)
    raise ConfigError(f"--sample-rate is '{sample_rate}'; give 'input', 'model', or a rate in Hz such as 44100.")


def _output_config(values: dict[str, Any]) -> "OutputConfig":
    """Validates the options and how they go together, in words of the command line.

    Raises:
        ConfigError: An option has a value that it cannot have, or no input could be written with these.
    """
    from jaxsep.audio import check_output, choose_subtype
    from jaxsep.audio.formats import MP3_BITRATES_KBPS
    from jaxsep.separation.outputs import OutputConfig

    config = validated(OutputConfig, values, _OPTIONS)
    subtype = choose_subtype(config.format, config.subtype, "PCM_16")
    # What an input has may be known only when it is opened; what none can have is known now.
    rates = [config.sample_rate] if isinstance(config.sample_rate, int) else [44100, *MP3_BITRATES_KBPS]
    refusals = []
    for rate in rates:
        try:
            check_output(config.format, subtype, config.bitrate_kbps, rate, channels=1)
        except ConfigError as error:
            refusals.append(error)
    if len(refusals) == len(rates):
        raise refusals[0]
    return config
