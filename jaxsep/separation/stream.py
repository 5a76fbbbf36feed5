"""Files of any length and number through the Separator: read, separated and written in a moving window, memory bounded.

What becomes of one file is in track.py, what is written where is planned in outputs.py.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from jaxsep.errors import ConfigError, JaxsepError
from jaxsep.separation.inputs import Input
from jaxsep.separation.mixtures import Mixture, Progress, ProgressCallback
from jaxsep.separation.models import AnySeparator, load_separator
from jaxsep.separation.outputs import Job, OutputConfig, plan
from jaxsep.separation.threads import Encoder
from jaxsep.separation.track import FileReport, Track

# Called with a job and how far it is after every chunk; all stop with `SeparationAborted` when it returns False.
JobProgress = Callable[[Job, Progress], bool | None]


def separate_file(
    mixture: str | Path,
    directory: str | Path = "separated",
    *,
    separator: AnySeparator | None = None,
    config: OutputConfig | None = None,
    progress: ProgressCallback | None = None,
) -> FileReport:
    """Separates a file into stems.

    Args:
        mixture: An audio or video file.
        directory: Where the stems go; created if it is not there.
        separator: What separates; None for the bundled 2-stem model.
        config: How the stems are written; None for wav files that follow the input.
        progress: Called after every chunk.

    Returns:
        What was written. Files have their final names only when all stems are complete.

    Raises:
        ConfigError: If the options do not fit together, or a file is in the way.
        AudioError: If the input cannot be read or an output cannot be written.
        SeparationError: If the model gives samples that are not finite.
        SeparationAborted: If `progress` returned False.
    """
    separator = load_separator("spleeter-2stems") if separator is None else separator
    config = OutputConfig() if config is None else config
    each = Input.of_file(Path(mixture))
    (job,) = plan([each], Path(directory), separator.model.spec, config, stems=separator.stems)
    if job.problem is not None:
        raise ConfigError(job.problem)
    if job.skipped:
        raise ConfigError(f"All stems of '{mixture}' are in '{directory}' already.")
    report = None if progress is None else lambda _, done: progress(done)
    ((_, outcome),) = run_jobs([job], separator, config, progress=report)
    if isinstance(outcome, JaxsepError):
        raise outcome
    return outcome


def run_jobs(
    jobs: Iterable[Job],
    separator: AnySeparator,
    config: OutputConfig,
    *,
    progress: JobProgress | None = None,
) -> Generator[tuple[Job, FileReport | JaxsepError], None, None]:
    """Separates the inputs of planned jobs into their files, so that the device never waits for one of them.

    While the device computes, one thread decodes what comes next and another encodes what came before; chunks of
    several files share a batch (not under the Wiener filter, whose passes are those of one file). What goes wrong with
    one file ends that file and no other.

    Args:
        jobs: From `plan`.
        separator: What separates.
        config: How the stems are written.
        progress: Called after every chunk with its job.

    Yields:
        Each job with what was written, or why it was not, in order.

    Raises:
        ConfigError: If the options do not fit together.
        SeparationAborted: If `progress` returned False; of unfinished jobs nothing is left.
    """
    if config.consistency == "project" and separator.stems != separator.model.spec.stems:
        raise ConfigError(
            "Consistency 'project' needs all the model's stems; give the separator no selection of stems."
        )
    clock = _Clock(separator)
    with ExitStack() as unfinished, Encoder() as encoder:
        # Entered first and left last: a track is closed when no thread works on it any more.
        tracks: dict[int, Track] = {}
        unfinished.callback(_discard_all, tracks)

        def mixtures() -> Iterator[Mixture]:
            for number, job in enumerate(jobs):
                track = Track(job, separator, config, encoder, clock.since_the_last)
                tracks[number] = track
                report = None if progress is None else partial(progress, job)
                yield track.mixture(number, report)

        with closing(separator.stream_many(mixtures())) as streamed:
            for mixture, estimates, error in streamed:
                track = tracks[mixture.key]
                if estimates is not None:
                    encoder.submit(partial(track.take, estimates))
                    continue
                outcome = encoder.finish(partial(track.conclude, error))
                del tracks[mixture.key]
                yield track.job, outcome


def _discard_all(tracks: dict[int, Track]) -> None:
    for track in tracks.values():
        track.discard()


class _Clock:
    """Divides the run's seconds among the files: to each, what passed since the file before it was finished."""

    def __init__(self, separator: AnySeparator) -> None:
        self._separator = separator
        self._last = self._now()

    def since_the_last(self) -> dict[str, float]:
        """Returns seconds, and starts counting anew."""
        now = self._now()
        passed = {name: now[name] - self._last[name] for name in now}
        self._last = now
        return passed

    def _now(self) -> dict[str, float]:
        return {
            "compile": self._separator.compile_seconds,
            "compute": self._separator.wait_seconds,
            "total": time.perf_counter(),
        }
