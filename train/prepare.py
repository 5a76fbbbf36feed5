"""`python -m train.prepare ROOT OUT`: decodes a data set once, so that training reads any place of it at once.

What it writes is described in prepared.py.
"""

import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from enum import StrEnum
from itertools import chain, repeat
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer

from jaxsep.audio.reader import AudioReader
from jaxsep.audio.resample import Resampler
from jaxsep.cli.runtime import check_working_directory
from jaxsep.cli.streams import console, forgive_lost_messages
from jaxsep.environment import expand_home, open_standard_descriptors
from jaxsep.errors import AudioError, ConfigError, JaxsepError, in_a_sentence
from jaxsep.naming import new_files
from train.config import DataConfig
from train.levels import Levels, warn_of_levels
from train.prepared import (
    BLOCK_LENGTH,
    INDEX,
    DatasetIndex,
    Split,
    Stored,
    TrackEntry,
    array_record,
    encode,
    file_sha256,
    fits_int16,
)
from train.problems import Problems
from train.recordings import MIXTURE, AudioFile, FileRecording, Recording, warn_of_lengths
from train.tracks import Recordings, find_recordings

_LOSSY = ("MPEG", "VORBIS", "OPUS", "AAC", "AC3", "EAC3", "WMA", "MP2", "MP3")
_NARROW = ("PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW", "ALAC_16")


class Layout(StrEnum):
    """What is in the folder; see `DataConfig.layout`."""

    auto = "auto"
    folders = "folders"
    musdb18 = "musdb18"
    musdb18hq = "musdb18hq"


class SampleType(StrEnum):
    """What samples are stored in."""

    auto = "auto"
    int16 = "int16"
    float32 = "float32"


def prepare(
    data: DataConfig,
    out: Path,
    *,
    sample_rate: int = 44100,
    channels: int = 2,
    dtype: str = "auto",
    overwrite: bool = False,
    threads: int | None = None,
    progress: Callable[[str, int], None] = lambda name, total: None,
) -> tuple[DatasetIndex, list[str]]:
    """Decodes all tracks, converts them to one rate and number of channels, checks every sample, and writes them.

    Nothing is at `out` until all of it is.

    Args:
        data: Which tracks.
        out: The folder to make.
        sample_rate: Sample rate in Hz.
        channels: One or two.
        dtype: 'int16', 'float32', or 'auto' for int16 where a track's files hold no more than that.
        overwrite: Whether a prepared data set at `out` is replaced.
        threads: Tracks at a time; None for one per core.
        progress: Called with the name of each track that is done and how many there are, from any thread.

    Returns:
        What was written, and warnings.

    Raises:
        ConfigError: There is something at `out`, or there are no tracks, or what was asked for cannot be; or several
            things are wrong with the tracks, which it lists.
        AudioError: A file cannot be read, or the disk takes no more.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and not (overwrite and (out / INDEX).is_file()):
        fix = "it is no prepared data set: name another folder" if overwrite else "use --overwrite to replace it"
        raise ConfigError(f"'{out}' exists; {fix}.")
    problems = Problems()
    found = Recordings((), ())
    with problems.noted():
        found = find_recordings(data, problems)
    work: list[tuple[Split, FileRecording]] = []
    splits: tuple[tuple[Split, tuple[Recording, ...]], ...] = (("train", found.train), ("valid", found.validation))
    for split, recordings in splits:
        for recording in recordings:
            if not isinstance(recording, FileRecording):
                raise ConfigError(f"{data.root} is prepared already; name the folder of the audio files.")
            work.append((split, recording))
    if not work:
        problems.refuse()
    with new_files([out], replaced=[out] if overwrite else [], error=AudioError) as (temporary,), ExitStack() as stack:
        temporary.mkdir()

        def write(numbered: tuple[int, tuple[Split, FileRecording]]) -> _Written | list[JaxsepError]:
            number, (split, recording) = numbered
            path = temporary / f"{number:05}.array_record"
            try:
                return _write_track(recording, path, split, sample_rate, channels, dtype)
            except JaxsepError as error:
                path.unlink(missing_ok=True)
                return _wrong_files(recording, sample_rate, channels) or [error]
            finally:
                progress(recording.name, len(work))

        pool = ThreadPoolExecutor(threads or os.cpu_count())
        stack.callback(pool.shutdown, cancel_futures=True)
        written: list[_Written] = []
        for done in pool.map(write, enumerate(work)):
            if isinstance(done, _Written):
                written.append(done)
            for error in done.levels.errors if isinstance(done, _Written) else done:
                problems.add(error)
        problems.refuse()
        index = DatasetIndex(sample_rate=sample_rate, channels=channels, tracks=tuple(each.entry for each in written))
        (temporary / INDEX).write_text(index.model_dump_json(indent=1) + "\n", encoding="utf-8")
    levels = [each.levels for each in written]
    return index, warn_of_lengths([recording for _, recording in work]) + warn_of_levels(levels, "throughout")


class _Written(NamedTuple):
    """A track that is written."""

    entry: TrackEntry
    levels: Levels


def _write_track(
    recording: FileRecording, path: Path, split: Split, sample_rate: int, channels: int, dtype: str
) -> _Written:
    stored: Stored = "float32" if dtype == "float32" or (dtype == "auto" and not _holds_int16(recording)) else "int16"
    parts = (*recording.parts, MIXTURE) if recording.has_mixture else recording.parts
    levels = Levels(recording)
    length = 0
    with array_record(path) as writer:
        for block in _blocks([recording.files[part] for part in parts], sample_rate, channels):
            if stored == "int16" and not fits_int16(block):
                length = -1
                break
            for part in block:
                writer.write(encode(part, stored))
            levels.add(block)
            length += block.shape[1]
    if length < 0:
        if dtype == "int16":
            raise ConfigError(f"The track '{recording.name}' exceeds full scale; use --dtype float32 or auto.")
        return _write_track(recording, path, split, sample_rate, channels, "float32")
    entry = TrackEntry(
        name=recording.name,
        split=split,
        parts=recording.parts,
        has_mixture=recording.has_mixture,
        length=length,
        dtype=stored,
        file=path.name,
        size=path.stat().st_size,
        sha256=file_sha256(path),
    )
    return _Written(entry, levels)


def _wrong_files(recording: FileRecording, sample_rate: int, channels: int) -> list[JaxsepError]:
    """Returns what is wrong with each file of a track: the first that is wrong ends its writing."""
    problems = Problems()
    for file in recording.files.values():
        with problems.noted(), closing(_converted(file, sample_rate, channels)) as blocks:
            for _ in blocks:
                pass
    return problems.errors


def _holds_int16(recording: FileRecording) -> bool:
    """Whether files are of 16 bits or fewer, or lossy, of which 16 bits keep all that can be heard."""
    return all(
        file.info.subtype in _NARROW or file.info.subtype.startswith(_LOSSY) for file in recording.files.values()
    )


def _blocks(files: Sequence[AudioFile], sample_rate: int, channels: int) -> Iterator[np.ndarray]:
    """Yields (part, time, channel) until the longest part ends; the others are silent from their end on."""
    with ExitStack() as stack:
        streams = [stack.enter_context(closing(_converted(file, sample_rate, channels))) for file in files]
        nothing = np.zeros((0, channels), np.float32)
        endless = [chain(stream, repeat(nothing)) for stream in streams]
        while True:
            found = [next(stream) for stream in endless]
            length = max(len(block) for block in found)
            if not length:
                return
            yield np.stack([np.pad(block, ((0, length - len(block)), (0, 0))) for block in found])


def _converted(file: AudioFile, sample_rate: int, channels: int) -> Generator[np.ndarray, None, None]:
    """Yields a file in blocks of `BLOCK_LENGTH` at another rate and number of channels, the last one shorter."""
    resampler = Resampler(file.info.sample_rate, sample_rate, channels)
    held = np.zeros((0, channels), np.float32)
    with AudioReader(file.path, stream=file.stream) as reader:
        for block in chain(reader.blocks(BLOCK_LENGTH), (None,)):
            given = resampler.finish() if block is None else resampler.push(_with_channels(block, channels, file.path))
            held = np.concatenate([held, given])
            while len(held) >= BLOCK_LENGTH:
                yield held[:BLOCK_LENGTH]
                held = held[BLOCK_LENGTH:]
        if reader.warning is not None:
            raise AudioError(f"{reader.warning.removesuffix('.')}; mend it or take the track away.")
    if len(held):
        yield held


def _with_channels(block: np.ndarray, channels: int, path: Path) -> np.ndarray:
    """Returns mono in two channels, or the mean of two."""
    found = block.shape[1]
    if found == channels:
        return block
    if found == 1:
        return np.repeat(block, channels, axis=1)
    if channels == 1:
        return block.mean(axis=1, keepdims=True)
    raise ConfigError(f"{path} has {found} channels, which cannot become {channels}; mix it down first.")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    root: Annotated[Path, typer.Argument(help="The folder of the data set.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    sample_rate: Annotated[int, typer.Option(min=1, help="In Hz.")] = 44100,
    channels: Annotated[int, typer.Option(min=1, max=2)] = 2,
    layout: Annotated[Layout, typer.Option(help="What is in ROOT.")] = Layout.auto,
    dtype: Annotated[
        SampleType, typer.Option(help="What to store; auto is int16 where files hold no more.")
    ] = SampleType.auto,
    validation_track: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Kept out of training; can be given again.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a prepared data set at OUT.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Tracks at a time.", show_default="cores")] = None,
) -> None:
    """Decode a data set once, so that training reads any place of it at once."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    data = DataConfig(root=str(root), layout=layout.value, validation_tracks=tuple(validation_track or ()))
    columns = (TextColumn("prepared"), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[last]}"))
    shown = console(stderr=True)
    try:
        check_working_directory()
        with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
            task = bar.add_task("", total=None, last="")
            index, warnings = prepare(
                data,
                expand_home(out),
                sample_rate=sample_rate,
                channels=channels,
                dtype=dtype.value,
                overwrite=overwrite,
                threads=threads,
                progress=lambda name, total: bar.update(task, advance=1, total=total, last=name),
            )
    except (JaxsepError, OSError, MemoryError) as error:
        print(f"prepare: {in_a_sentence(error)}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
    for warning in warnings:
        print(f"prepare: warning: {warning}", file=sys.stderr)
    counts = [sum(entry.split == split for entry in index.tracks) for split in ("train", "valid")]
    size = sum(entry.size for entry in index.tracks)
    tracks = f"{counts[0]} track{'s' * (counts[0] != 1)}"
    print(f"{tracks} to train and {counts[1]} to validate on are in {out} ({size / 1e9:.2f} GB)")


if __name__ == "__main__":
    from jaxsep.cli.interrupt import end_on_signals

    open_standard_descriptors()
    forgive_lost_messages()
    end_on_signals()
    app(prog_name="python -m train.prepare")
