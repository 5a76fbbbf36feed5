"""What a run tells while it goes: metrics.jsonl, and TensorBoard's files. On process 0 only; nothing is computed here.

Each row tells of one step, or of one validation. What depends on the time that things take is in a row's 'timing': all
else is the same in two runs that compute the same, bit for bit.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsep.errors import JaxsepError
from train.config import RunConfig
from train.pictures import encode_png, spectrogram_pictures
from train.validate import Excerpt, Scores

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"

Row = Mapping[str, Any]


class Writers:
    """All that a run is written to; nothing on processes other than the first."""

    def __init__(
        self, workdir: Path, config: RunConfig, *, after: int, tell: Callable[[dict[str, Any]], None] = lambda row: None
    ) -> None:
        """Opens what there is to write, and takes away what a run that was cut off wrote after its last checkpoint.

        Args:
            workdir: Of the run.
            config: Of the run.
            after: The step that the run goes on from.
            tell: Called with every row.

        Raises:
            JaxsepError: tensorboardX is not installed, or the workdir cannot be written.
        """
        self._tell = tell
        self._metrics: MetricsLog | None = None
        self._tensorboard: TensorBoardLog | None = None
        if jax.process_index() != 0:
            return
        self._metrics = MetricsLog(workdir / METRICS)
        self._metrics.cut_after(after)
        if config.logging.tensorboard:
            self._tensorboard = TensorBoardLog(workdir / TENSORBOARD, after=after)

    def write_row(self, row: Row) -> None:
        """Writes what a step told.

        Args:
            row: Has the 'step'; numbers, and mappings of numbers.

        Raises:
            JaxsepError: It cannot be written.
        """
        if self._metrics is None:
            return
        written = self._metrics.write(row)
        if self._tensorboard is not None:
            self._tensorboard.write(written)
        self._tell(written)

    def write_validation(self, step: int, scores: Scores, excerpt: Excerpt) -> None:
        """Writes what a validation told, and how an excerpt sounds and looks.

        Args:
            step: After which it was.
            scores: In dB.
            excerpt: Of a track.

        Raises:
            JaxsepError: It cannot be written.
        """
        tracks = {name: dict(stems) for name, stems in scores.tracks.items()}
        validation = {"sdr": scores.mean, "stems": scores.stems, "tracks": tracks}
        self.write_row({"step": step, "validation": validation, "timing": {"validation_seconds": scores.seconds}})
        if self._tensorboard is not None:
            self._tensorboard.write_excerpt(step, excerpt)

    def close(self) -> None:
        """Writes what still waits to be written."""
        if self._tensorboard is not None:
            self._tensorboard.close()


class MetricsLog:
    """metrics.jsonl: one JSON object a row, in the file as soon as it is told.

    Numbers of float32 are written as the float64 numbers that they are, which come back exactly; what is not finite is
    null.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, row: Row) -> dict[str, Any]:
        """Adds a row.

        Returns:
            The row as JSON has it.

        Raises:
            JaxsepError: It cannot be written.
        """
        plain = _plain(row)
        line = json.dumps(plain, allow_nan=False) + "\n"
        try:
            # Opened for each row: nothing is lost when the process is killed.
            with self._path.open("a", encoding="ascii") as file:
                file.write(line)
        except OSError as error:
            raise self._not_written(error) from None
        return plain

    def cut_after(self, step: int) -> None:
        """Takes away the rows after a step, and a line that was not written to its end.

        Raises:
            JaxsepError: The file cannot be read or written.
        """
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._not_written(error) from None
        temporary = self._path.with_name(f".{self._path.name}")
        try:
            with temporary.open("wb") as file:
                file.writelines(line for line in lines if (told := _step_of(line)) is not None and told <= step)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            raise self._not_written(error) from None

    def _not_written(self, error: OSError) -> JaxsepError:
        return JaxsepError(
            f"{self._path} cannot be written: {error.strerror or error}; make room or give rights, and the same "
            "command goes on from the last checkpoint."
        )


class TensorBoardLog:
    """TensorBoard's files: every number of a row as a scalar, and excerpts as sounds and pictures."""

    def __init__(self, folder: Path, *, after: int) -> None:
        """Begins a file, which has TensorBoard hide what others hold of later steps.

        Args:
            folder: Where TensorBoard is to look.
            after: The step that the run goes on from.

        Raises:
            JaxsepError: tensorboardX is not installed.
        """
        try:
            import tensorboardX
            from tensorboardX.proto.summary_pb2 import Summary
        except ImportError:
            raise JaxsepError(
                "logging.tensorboard needs tensorboardX, which is not installed: pip install 'jaxsep[train]', or set "
                "it to false."
            ) from None
        self._summary = Summary
        # Named by the step as well: files are named by the second in which they begin, and would be overwritten.
        self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=after + 1, filename_suffix=f".{after}")

    def write(self, row: Row) -> None:
        """Adds the numbers of a row; those of single tracks are in metrics.jsonl alone."""
        for path, number in _numbers({key: value for key, value in row.items() if key != "step"}):
            if not path.startswith("validation/tracks/"):
                self._writer.add_scalar(path, number, row["step"])

    def write_excerpt(self, step: int, excerpt: Excerpt) -> None:
        """Adds mixture, true sources and estimates: as sounds, and as spectrograms on one scale."""
        sounds = {"mixture": excerpt.mixture}
        for stem, source, estimate in zip(excerpt.stems, excerpt.sources, excerpt.estimates, strict=True):
            sounds |= {f"{stem}/true": source, f"{stem}/estimate": estimate}
        for name, sound in sounds.items():
            audible = sound if sound.shape[1] <= 2 else sound.mean(axis=1, keepdims=True)
            self._writer.add_audio(f"excerpt/{name}", np.clip(audible, -1, 1), step, sample_rate=excerpt.sample_rate)
        pictures = spectrogram_pictures(list(sounds.values()))
        for name, picture in zip(sounds, pictures, strict=True):
            # tensorboardX's own add_image needs Pillow.
            height, width, _ = picture.shape
            image = self._summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=encode_png(picture)
            )
            value = self._summary.Value(tag=f"excerpt/{name}", image=image)
            self._writer.file_writer.add_summary(self._summary(value=[value]), step)
        self._writer.flush()

    def close(self) -> None:
        """Writes what still waits to be written."""
        self._writer.close()


def _plain(value: Any) -> Any:
    """Returns a tree of numbers as JSON knows them."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if value is None or isinstance(value, str):
        return value
    number = value if isinstance(value, bool | int | float) else np.asarray(value).item()
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, value


def _step_of(line: bytes) -> int | None:
    """Returns the step that a line tells of; None for one that was not written to its end."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row["step"] if isinstance(row, dict) and isinstance(row.get("step"), int) else None
