"""What a run of `jaxsep separate` tells: of each input, in its last line, and in the report. Runs nothing."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxsep.environment import peak_memory_bytes, processor, versions
from jaxsep.errors import ConfigError, SeparationError
from jaxsep.naming import new_files, temporary_path

if TYPE_CHECKING:
    import jax

    from jaxsep.cli.runtime import CompilationCounter
    from jaxsep.separation.models import AnySeparator
    from jaxsep.separation.outputs import Job, OutputConfig
    from jaxsep.separation.track import FileReport


def describe(input_name: str, done: "FileReport") -> dict[str, Any]:
    """Returns the part of the report that is about one input, by the name that it was given by."""
    warnings = list(done.warnings)
    for name, stem in done.stems.items():
        if stem.clipped:
            warnings.append(
                f"{stem.clipped} samples of '{name}' lie beyond full scale (peak {stem.peak:.3f}) and "
                f"{'were' if done.subtype.startswith('PCM') else 'will be'} cut to it; "
                "--clip rescale avoids that, and so does --subtype FLOAT in wav files."
            )
    return {
        "input": input_name,
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


def summarise(results: list[dict[str, Any]], device: "jax.Device", directory: Path, seconds: float) -> str:
    """Returns the last line: where the stems are, on which device, and how fast it went; '' if nothing was done."""
    done = [result for result in results if result["status"] == "done"]
    if not done:
        return ""
    where = directory
    if len(done) == 1:
        folders = {Path(stem["path"]).parent for stem in done[0]["stems"].values()}
        where = folders.pop() if len(folders) == 1 else directory
    audio = sum(result["duration_seconds"] for result in done)
    names = ", ".join(done[0]["stems"])
    count = "" if len(done) == 1 else f" of {len(done)} files"
    kind = processor() if device.platform == "cpu" else device.device_kind
    return (
        f"{names}{count} are in {where} ({device.platform}: {kind}; "
        f"{audio:.1f} s of audio in {seconds:.2f} s, {audio / seconds:.1f} times faster than real time)"
    )


def make_report(
    results: list[dict[str, Any]],
    separator: "AnySeparator",
    config: "OutputConfig",
    compilation: "CompilationCounter",
) -> dict[str, Any]:
    """Returns what `--report` writes.

    Args:
        results: Of each input, in order: what `describe` returns, or its 'input', 'status' and 'error'.
        separator: What ran.
        config: How stems were written.
        compilation: What it counted during the run.
    """
    return {
        "versions": versions(),
        "processor": processor(),
        "device": {"platform": separator.device.platform, "kind": separator.device.device_kind},
        "model": {"sha256": separator.model.sha256, "spec": separator.model.spec.model_dump(mode="json")},
        "options": {
            **config.model_dump(mode="json"),
            **separator.options.model_dump(mode="json"),
            "batch_size": separator.batch_size,
        },
        "compilation": {"cache_hits": compilation.hits, "cache_misses": compilation.misses},
        "peak_memory_bytes": peak_memory_bytes(),
        "files": results,
    }


def check_report_path(path: Path, jobs: list["Job"]) -> None:
    """Refuses a report that could not be written, or that would replace an input or a stem.

    Raises:
        ConfigError: It says why.
    """
    for job in jobs:
        for other in (job.mixture, *job.stems.values()):
            if path.resolve() == other.resolve():
                raise ConfigError(f"The report would replace '{other}'; give it another name.")
    if path.exists() and not path.is_file():
        raise ConfigError(f"'{path}' is not a regular file and will not be replaced by the report.")
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise ConfigError(f"The report '{path}' cannot be written: {error.strerror}.") from None


def write_report(path: Path, report: dict[str, Any], *, replace: bool) -> None:
    """Writes a report as JSON, under its name only when it is complete.

    Args:
        path: Its file.
        report: What `make_report` returned.
        replace: Whether a file that has its name by now goes.

    Raises:
        SeparationError: The disk does not take it, or it has another name, since a file with its name came to exist.
    """
    with new_files([path], replaced=[path] if replace else [], error=SeparationError) as (temporary,):
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
