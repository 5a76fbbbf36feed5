"""`jaxsep separate`: options, the plan, one run over all inputs, and what is printed and reported."""

import json
import os
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxsep.cli.runtime import DeviceKind
from jaxsep.environment import peak_memory_bytes, processor, versions
from jaxsep.errors import AudioError, ConfigError, JaxsepError

if TYPE_CHECKING:
    from jaxsep.cli.runtime import CompilationCounter
    from jaxsep.separation.outputs import Job, OutputConfig
    from jaxsep.separation.separator import Separator
    from jaxsep.separation.stream import FileReport

DEFAULT_MODEL = "spleeter-2stems"
SOME_INPUT_FAILED = 1


class Format(StrEnum):
    """Of the files written."""

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


class Clip(StrEnum):
    """What happens to samples beyond full scale."""

    none = "none"
    rescale = "rescale"
    clamp = "clamp"


def separate(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Audio or video files.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the stems go.")] = Path("separated"),
    model: Annotated[
        str, typer.Option("-m", "--model", help="A name from `jaxsep models`, or a checkpoint.")
    ] = DEFAULT_MODEL,
    stems: Annotated[
        str | None, typer.Option(metavar="STEM,...", help="Write only these stems.", show_default="all")
    ] = None,
    wiener: Annotated[
        bool, typer.Option("--wiener", help="Use the multichannel Wiener filter (Spleeter's MWF).")
    ] = False,
    format: Annotated[Format, typer.Option(help="Of the files written.")] = Format.wav,
    subtype: Annotated[
        Subtype | None, typer.Option(help="Sample format of wav and flac.", show_default="as the input")
    ] = None,
    bitrate: Annotated[
        int | None, typer.Option(metavar="KBPS", help="Of mp3 and ogg.", show_default="320 or the highest there is")
    ] = None,
    sample_rate: Annotated[str, typer.Option(metavar="input|model|HZ", help="Of the stems.")] = "input",
    offset: Annotated[float, typer.Option(metavar="SECONDS", help="Where in each input to start.")] = 0.0,
    duration: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How much of each input to separate.", show_default="all")
    ] = None,
    filename: Annotated[
        str, typer.Option(help="Path of each stem below the output directory.")
    ] = "{track}/{stem}.{ext}",
    residual: Annotated[
        bool, typer.Option("--residual", help="Also write 'residual': the mixture minus the stems written.")
    ] = False,
    consistency: Annotated[
        Consistency, typer.Option(help="'project' makes all stems sum to the mixture.")
    ] = Consistency.none,
    clip: Annotated[
        Clip, typer.Option(help="Beyond full scale: leave it, one lower gain for all stems, or limit each sample.")
    ] = Clip.none,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Chunks at a time.", show_default="what the device likes")
    ] = None,
    device: Annotated[DeviceKind, typer.Option(help="Where to run; never falls back in silence.")] = DeviceKind.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave inputs alone whose stems all exist.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write what was done, how fast, with what.", show_default="none"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
) -> int:
    """Separate songs into stems.

    `jaxsep separate a/song.mp3` writes separated/song/vocals.wav and separated/song/accompaniment.wav.
    """
    if overwrite and skip_existing:
        raise ConfigError("--overwrite and --skip-existing contradict each other; use one of them.")
    from jaxsep.separation.outputs import OutputConfig

    chosen = tuple(name.strip() for name in stems.split(",")) if stems is not None else None
    config = OutputConfig.parse(
        {
            "format": format.value,
            "subtype": subtype.value if subtype else None,
            "bitrate_kbps": bitrate,
            "sample_rate": int(sample_rate) if sample_rate.isdecimal() else sample_rate,
            "offset_seconds": offset,
            "duration_seconds": duration,
            "filename": filename,
            "stems": chosen,
            "residual": residual,
            "consistency": consistency.value,
            "clip": clip.value,
            "existing": "overwrite" if overwrite else "skip" if skip_existing else "refuse",
        },
        where="The command line",
    )
    from jaxsep.cli.runtime import CompilationCounter, choose_device, use_compilation_cache

    jax_device = choose_device(device)
    use_compilation_cache()
    compilation = CompilationCounter()
    from jaxsep.dsp.wiener import NORBERT
    from jaxsep.separation.outputs import plan
    from jaxsep.separation.separator import Separator

    separator = Separator.from_pretrained(
        model,
        # Consistency spreads what is missing over all stems of the model, also where few are written.
        stems=None if config.consistency == "project" else chosen,
        wiener=NORBERT if wiener else None,
        device=jax_device,
        batch_size=batch_size,
    )
    jobs = plan(inputs, output, separator.stems, config)
    started = time.perf_counter()
    results = _run_all(jobs, separator, config, quiet)
    seconds = time.perf_counter() - started
    if not quiet:
        _print_summary(results, separator, output, seconds)
    if report is not None:
        _write_report(report, results, separator, config, wiener, compilation)
    return SOME_INPUT_FAILED if any(result["status"] == "failed" for result in results) else 0


def _run_all(jobs: list["Job"], separator: "Separator", config: "OutputConfig", quiet: bool) -> list[dict[str, Any]]:
    """Runs every job and says what became of each; one that fails does not stop the rest."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from jaxsep.separation import separator as library
    from jaxsep.separation.stream import run_job

    results = []
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console(quiet), transient=True) as bars:
        for job in jobs:
            if job.skipped:
                bars.console.print(f"{job.mixture}: skipped, all its stems exist")
                results.append({"input": str(job.mixture), "status": "skipped"})
                continue
            bar = bars.add_task(job.mixture.name, total=None, speed="")
            started = time.perf_counter()

            def show(progress: library.Progress, bar: Any = bar, started: float = started) -> None:
                speed = progress.done_seconds / (time.perf_counter() - started)
                bars.update(
                    bar, completed=progress.done_seconds, total=progress.total_seconds, speed=f"{speed:.0f}x real time"
                )

            try:
                result = _describe(run_job(job, separator, config, progress=show))
            except JaxsepError as error:
                result = {"input": str(job.mixture), "status": "failed", "error": str(error)}
                bars.stop()
                print(f"jaxsep: {error}", file=sys.stderr)
                bars.start()
            for remark in result.get("warnings", ()):
                bars.console.print(f"warning: {remark}")
            bars.remove_task(bar)
            results.append(result)
    return results


def _describe(done: "FileReport") -> dict[str, Any]:
    """Returns the part of the report that is about one input."""
    warnings = list(done.warnings)
    for name, stem in done.stems.items():
        if stem.clipped:
            warnings.append(
                f"{stem.clipped} samples of '{name}' lie beyond full scale (peak {stem.peak:.3f}) and were cut to it; "
                "--clip rescale or --subtype FLOAT avoids that."
            )
    return {
        "input": str(done.mixture),
        "status": "done",
        "duration_seconds": done.duration_seconds,
        "sample_rate": done.sample_rate,
        "channels": done.channels,
        "subtype": done.subtype,
        "gain": done.gain,
        "timings_seconds": {name: round(seconds, 4) for name, seconds in done.timings.items()},
        "stems": {
            name: {
                "path": str(stem.path),
                "frames": stem.frames,
                "peak": stem.peak,
                "rms": stem.rms,
                "clipped": stem.clipped,
            }
            for name, stem in done.stems.items()
        },
        "warnings": warnings,
    }


def _print_summary(results: list[dict[str, Any]], separator: "Separator", directory: Path, seconds: float) -> None:
    """Prints the last line: where the stems are, on which device, and how fast it went."""
    done = [result for result in results if result["status"] == "done"]
    if not done:
        return
    where = directory
    if len(done) == 1:
        folders = {Path(stem["path"]).parent for stem in done[0]["stems"].values()}
        where = folders.pop() if len(folders) == 1 else directory
    audio = sum(result["duration_seconds"] for result in done)
    names = ", ".join(done[0]["stems"])
    count = "" if len(done) == 1 else f" of {len(done)} files"
    print(
        f"{names}{count} are in {where} ({separator.device.platform}: {separator.device.device_kind}; "
        f"{audio:.1f} s of audio in {seconds:.2f} s, {audio / seconds:.1f} times faster than real time)"
    )


def _write_report(
    path: Path,
    results: list[dict[str, Any]],
    separator: "Separator",
    config: "OutputConfig",
    wiener: bool,
    compilation: "CompilationCounter",
) -> None:
    report = {
        "versions": versions(),
        "processor": processor(),
        "device": {"platform": separator.device.platform, "kind": separator.device.device_kind},
        "model": {"sha256": separator.model.sha256, "spec": separator.model.spec.model_dump(mode="json")},
        "options": {
            **config.model_dump(mode="json"),
            "wiener": wiener,
            "batch_size": separator.batch_size,
        },
        "compilation": {"cache_hits": compilation.hits, "cache_misses": compilation.misses},
        "peak_memory_bytes": peak_memory_bytes(),
        "files": results,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(report, indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise AudioError(f"The report '{path}' cannot be written: {error.strerror}.") from None


def _console(quiet: bool) -> Any:
    from rich.console import Console

    return Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False, markup=False)
