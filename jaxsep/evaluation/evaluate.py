"""Tracks in, records out: which tracks of which systems are scored, by how many processes, and what is there already.

One track is scored in scoring.py; tables and pages are made of the records in report.py.
"""

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxsep import unfinished
from jaxsep.errors import AudioError, ConfigError, JaxsepError
from jaxsep.evaluation.scorers import scorers
from jaxsep.evaluation.scoring import BASELINES, MUSEVAL, RECORD_FORMAT, ScoringJob, Settings, read_record, score_track
from jaxsep.evaluation.tracks import AudioStream, TrueTrack, as_one_text, describe, find_estimates
from jaxsep.metrics.museval_wrapper import require_museval

# museval looks for records in the folder of this name, whatever the subset.
RECORDS = "test"

# Separates a track into a folder and returns its stems.
Separate = Callable[[TrueTrack, Path], Mapping[str, AudioStream]]
# Called with each job that was run, what went wrong with it, or None, and how many there are to be run.
Progress = Callable[[ScoringJob, JaxsepError | None, int], None]


@dataclass(frozen=True)
class System:
    """What is evaluated.

    Attributes:
        name: Of its folder and in every table.
        estimates: By track and stem; None where they are made while the evaluation runs.
        separate: Makes the estimates of a track; None for a baseline, and where they are there.
        provenance: Where they come from, to be recorded.
    """

    name: str
    estimates: Mapping[str, Mapping[str, AudioStream]] | None
    separate: Separate | None
    provenance: Mapping[str, Any]


def baseline(name: str) -> System:
    """Returns the mixture or an oracle as a system.

    Args:
        name: One of `BASELINES`.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in BASELINES:
        raise ConfigError(f"There is no baseline '{name}'; give some of {', '.join(BASELINES)}.")
    return System(name, None, None, {"baseline": name})


def estimates_on_disk(
    root: Path,
    tracks: Sequence[TrueTrack],
    subset: str | None,
    stems: Sequence[str] | None,
    *,
    name: str | None = None,
) -> tuple[System, tuple[str, ...]]:
    """Returns estimates as a system, with their source set: the stems asked for, or all that the first track has.

    Args:
        root: The folder of the estimates.
        tracks: Names of the tracks that are evaluated.
        subset: Of the data set, or None.
        stems: Which ones; None for all that are there.
        name: Name of the system; None for that of the folder.

    Raises:
        ConfigError: A track or a stem is missing, or the source set holds something twice.
        AudioError: An estimate has another rate or number of channels than its track.
    """
    if not root.is_dir():
        raise ConfigError(f"There is no folder '{root}' with estimates.")
    found: dict[str, dict[str, AudioStream]] = {}
    for track in tracks:
        files = find_estimates(root, track.name, subset)
        if stems is None:
            stems = tuple(files)
            if "accompaniment" in stems and len(stems) > 2:
                raise ConfigError(
                    f"The estimates in '{root}' are {', '.join(stems)}, and accompaniment holds some of the others; "
                    "name the source set with --stems, such as --stems vocals,accompaniment."
                )
        for stem in stems:
            if stem not in files:
                raise ConfigError(
                    f"The estimates of the track '{track.name}' have no stem '{stem}', only {', '.join(files)}; "
                    "add the file, or leave the stem out with --stems."
                )
            if (own := files[stem].format()) != (expected := (track.sample_rate, track.channels)):
                raise AudioError(
                    f"The estimate '{files[stem].path}' has {describe(own)} and its track {describe(expected)}; "
                    "each sample is compared with the one at its place: convert the estimate first."
                )
        found[track.name] = files
    assert stems is not None
    name = name or as_one_text(Path(os.path.abspath(root)).name) or "estimates"
    return System(name, found, None, {"estimates": os.path.abspath(root)}), tuple(stems)


def evaluate(
    tracks: Sequence[TrueTrack],
    systems: Sequence[System],
    settings: Settings,
    output: Path,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[list[dict[str, Any]], list[JaxsepError]]:
    """Scores every track of every system, and goes on where an earlier run stopped.

    A record is there under its name when it is complete. One with the same settings, of files that have not changed
    since, is not made again.

    Args:
        tracks: Songs with their true sources.
        systems: What is evaluated.
        settings: What is scored, and how.
        output: The folder of the records: SYSTEM/test/TRACK.json, where museval looks for them.
        jobs: Processes that score tracks at the same time.
        overwrite: Whether records of other settings are replaced, instead of refused.
        progress: Called after every track.

    Returns:
        The records of these tracks that are there now, those of other systems with the same settings after those of
        these, and what went wrong.

    Raises:
        ConfigError: There are records of other settings, names do not fit, or a track has no source for a stem.
    """
    if len({system.name for system in systems}) != len(systems):
        again = next(each.name for each in systems if [system.name for system in systems].count(each.name) > 1)
        raise ConfigError(
            f"Two systems are called '{again}'; give one another name, by --model NAME=MODEL or --estimates NAME=DIR."
        )
    if twice := sorted({track.name for track in tracks if [each.name for each in tracks].count(track.name) > 1}):
        raise ConfigError(f"Two tracks are called '{twice[0]}'; rename one.")
    planned = [
        ScoringJob(
            track,
            system.name,
            {} if system.separate else system.estimates[track.name] if system.estimates else None,
            settings,
            system.provenance,
            output / system.name / RECORDS / f"{track.name}.json",
        )
        for system in systems
        for track in tracks
    ]
    pending = [
        replace(job, replaces=overwrite or job.output.exists()) for job in planned if not _is_done(job, overwrite)
    ]
    failures = []
    if MUSEVAL in settings.metrics and pending:
        require_museval()  # before anything is separated
    makers = {system.name: system.separate for system in systems}
    for job, failure in _run(pending, makers, jobs, output):
        if failure is not None:
            failures.append(failure)
        if progress is not None:
            progress(job, failure, len(pending))
    done = [job.output for job in planned]
    names = {system.name for system in systems}
    others = sorted(folder for folder in output.iterdir() if folder.name not in names) if output.is_dir() else []
    beside = [folder / RECORDS / f"{track.name}.json" for folder in others for track in tracks]
    records = [record for record in map(read_record, [*done, *beside]) if record is not None]
    wanted = (RECORD_FORMAT, settings.model_dump(mode="json"))
    own = [record["jaxsep"] for record in records]
    return [
        record for record, each in zip(records, own, strict=True) if (each.get("format"), each["settings"]) == wanted
    ], failures


def _is_done(job: ScoringJob, overwrite: bool) -> bool:
    inputs = job.inputs()
    if not os.path.lexists(job.output):
        return False
    record = read_record(job.output)
    if record is None:
        if overwrite and job.output.is_file():
            return False
        raise ConfigError(f"'{job.output}' is no record of jaxsep's; give another --output, or --overwrite.")
    expected = {"settings": job.settings.model_dump(mode="json"), "provenance": dict(job.provenance)}
    for what, value in expected.items():
        if (found := record["jaxsep"][what]) != value:
            if overwrite:
                return False
            differing = [
                f"{key} {found.get(key)} instead of {value[key]}" for key in value if found.get(key) != value[key]
            ]
            raise ConfigError(
                f"'{job.output}' was made with other settings ({'; '.join(differing)}); give another --output, or "
                "--overwrite to score again."
            )
    return record["jaxsep"].get("format") == RECORD_FORMAT and record["jaxsep"]["inputs"] == inputs


@contextmanager
def _temporary_folder(output: Path) -> Iterator[Path]:
    """Gives a folder where records go, which has room on its disk: the system's own place may be held in memory."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".estimates.", dir=output) as name, unfinished.watched(Path(name)) as made:
        yield made


def _run(
    pending: Sequence[ScoringJob], makers: Mapping[str, Separate | None], processes: int, output: Path
) -> Iterator[tuple[ScoringJob, JaxsepError | None]]:
    """Scores jobs in order; estimates are made here, one track ahead of the processes that score."""
    # Of what is scored as it lies on disk, nothing has to be kept.
    makes = any(separate is not None for separate in makers.values())
    with _temporary_folder(output) if makes else nullcontext(output) as temporary:

        def forget(number: int) -> None:
            if makes:
                shutil.rmtree(temporary / str(number), ignore_errors=True)

        def made(job: ScoringJob, number: int) -> tuple[ScoringJob, JaxsepError | None]:
            separate = makers[job.system]
            if separate is None:
                return job, None
            folder = temporary / str(number)
            folder.mkdir()
            try:
                return replace(job, estimates=separate(job.track, folder)), None
            except JaxsepError as error:
                return job, type(error)(f"The track '{job.track.name}' cannot be separated: {error}")

        if processes == 1 or len(pending) < 2:
            for number, job in enumerate(pending):
                job, failure = made(job, number)
                yield job, failure or score_track(job)
                forget(number)
            return
        running: deque[tuple[int, ScoringJob, Future[JaxsepError | None] | JaxsepError]] = deque()

        def first() -> tuple[ScoringJob, JaxsepError | None]:
            number, job, outcome = running.popleft()
            failure = outcome.result() if isinstance(outcome, Future) else outcome
            forget(number)
            return job, failure

        with scorers(min(processes, len(pending))) as scoring:
            for number, job in enumerate(pending):
                job, failure = made(job, number)
                running.append((number, job, failure or scoring.submit(job)))
                if len(running) > processes:
                    yield first()
            while running:
                yield first()
