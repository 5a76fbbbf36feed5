"""What a run tells while it goes: metrics.jsonl, and TensorBoard's files. On process 0 only; nothing is computed here.

Each row tells of the steps since the row before, or of one validation. What depends on the time that things take is in
its 'timing': all else is the same in two runs that compute the same, bit for bit.
"""

import io
import json
import math
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import soundfile

from jaxsep.errors import JaxsepError
from jaxsep.typing import HostWaveform
from jaxsep.weights.crc32c import masked_crc32c
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
            workdir: The run's folder.
            config: The run's config.
            after: The step that the run goes on from.
            tell: Called with every row.

        Raises:
            JaxsepError: tensorboardX is not installed, or the workdir cannot be written.
        """
        self._tell, self._config = tell, config
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

    def write_validation(self, step: int, epoch: float, scores: Scores, excerpt: Excerpt) -> None:
        """Writes what a validation told, and how an excerpt sounds and looks.

        Args:
            step: The step after which it was.
            epoch: Passes over the tracks until then.
            scores: Scores and losses of the tracks.
            excerpt: Part of a track; written as often as the config says.

        Raises:
            JaxsepError: It cannot be written.
        """
        tracks = {name: dict(stems) for name, stems in scores.tracks.items()}
        validation = {"sdr": scores.mean, "loss": scores.loss, "stems": scores.stems, "tracks": tracks}
        timing = {"validation_seconds": scores.seconds}
        self.write_row({"step": step, "epoch": epoch, "validation": validation, "timing": timing})
        if self._tensorboard is not None and excerpt_is_due(step, self._config):
            self._tensorboard.write_excerpt(step, excerpt)


def excerpt_is_due(step: int, config: RunConfig) -> bool:
    """Whether the validation after a step is one of those of which an excerpt is to be heard and seen.

    They lie evenly over the validations of the run, counted back from its last one.
    """
    every, most = config.validation.every_steps, config.logging.excerpts
    if every is None or most == 0:
        return False
    all_of_them, number = -(-config.training.steps // every), -(-step // every)
    apart = max(config.logging.excerpt_every, -(-all_of_them // most))
    return (all_of_them - number) % apart == 0


def check_tensorboard() -> None:
    """Raises JaxsepError where tensorboardX is missing."""
    try:
        import tensorboardX.proto.event_pb2  # noqa: F401
    except ImportError:
        raise JaxsepError(
            "logging.tensorboard needs tensorboardX, which is not installed: pip install 'jaxsep[train]', or set it to "
            "false."
        ) from None


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
        _append(self._path, json.dumps(plain, allow_nan=False).encode() + b"\n")
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
            raise _not_written(self._path, error) from None
        temporary = self._path.with_name(f".{self._path.name}")
        try:
            with temporary.open("wb") as file:
                file.writelines(line for line in lines if (told := _step_of(line)) is not None and told <= step)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            raise _not_written(self._path, error) from None


class TensorBoardLog:
    """TensorBoard's files: every number of a row as a scalar, and excerpts as sounds and pictures.

    tensorboardX says what events are made of. Its SummaryWriter is not used: it writes from a thread, which ends at a
    full disk without the run's noticing, and then waits for that thread for ever.
    """

    def __init__(self, folder: Path, *, after: int) -> None:
        """Begins a file, which has TensorBoard hide what others hold of later steps.

        Args:
            folder: Where TensorBoard is to look.
            after: The step that the run goes on from.

        Raises:
            JaxsepError: tensorboardX is not installed, or the file cannot be written.
        """
        check_tensorboard()
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        self._event, self._summary = Event, Summary
        # TensorBoard reads files in the order of their names.
        self._path = folder / f"events.out.tfevents.{int(time.time()):010}.{after:09}.{socket.gethostname()}"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise _not_written(folder, error) from None
        self._add(0, file_version="brain.Event:2")
        self._add(after + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, row: Row) -> None:
        """Adds the numbers of a row; those of single tracks are in metrics.jsonl alone.

        Raises:
            JaxsepError: They cannot be written.
        """
        values = [
            self._summary.Value(tag=path, simple_value=number)
            for path, number in _numbers({key: value for key, value in row.items() if key != "step"})
            if not path.startswith("validation/tracks/")
        ]
        self._add(row["step"], summary=self._summary(value=values))

    def write_excerpt(self, step: int, excerpt: Excerpt) -> None:
        """Adds mixture, true sources and estimates: as sounds, and as spectrograms on one scale.

        Raises:
            JaxsepError: They cannot be written.
        """
        sounds = {"mixture": excerpt.mixture}
        for stem, source, estimate in zip(excerpt.stems, excerpt.sources, excerpt.estimates, strict=True):
            sounds |= {f"{stem}/true": source, f"{stem}/estimate": estimate}
        pictures = spectrogram_pictures(list(sounds.values()))
        values = []
        for (name, sound), picture in zip(sounds.items(), pictures, strict=True):
            audio = self._audio(sound, excerpt.sample_rate)
            height, width, _ = picture.shape
            image = self._summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=encode_png(picture)
            )
            values += [
                self._summary.Value(tag=f"excerpt/sound/{name}", audio=audio),
                self._summary.Value(tag=f"excerpt/picture/{name}", image=image),
            ]
        self._add(step, summary=self._summary(value=values))

    def _audio(self, sound: HostWaveform, sample_rate: int) -> Any:
        audible = sound if sound.shape[1] <= 2 else sound.mean(axis=1, keepdims=True)
        file = io.BytesIO()
        soundfile.write(file, np.clip(audible, -1, 1), sample_rate, format="WAV", subtype="PCM_16")
        return self._summary.Audio(
            sample_rate=sample_rate,
            num_channels=audible.shape[1],
            length_frames=len(audible),
            encoded_audio_string=file.getvalue(),
            content_type="audio/wav",
        )

    def _add(self, step: int, **what: Any) -> None:
        """Adds an event as a TFRecord: its length and itself, each with a checksum."""
        event = self._event(wall_time=time.time(), step=step, **what).SerializeToString()
        length = struct.pack("<Q", len(event))
        checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, event))
        _append(self._path, b"".join((length, next(checksums), event, next(checksums))))


def _plain(value: Any) -> Any:
    """Returns a tree of numbers as JSON knows them."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if value is None or isinstance(value, str):
        return value
    number = value if isinstance(value, bool | int | float) else np.asarray(value).item()
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _append(path: Path, data: bytes) -> None:
    """Adds to a file, which is opened and closed for it: nothing is lost when the process is killed."""
    try:
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        raise _not_written(path, error) from None


def _not_written(path: Path, error: OSError) -> JaxsepError:
    return JaxsepError(
        f"{path} cannot be written: {error.strerror or error}; make room or give rights, and the same command goes on "
        "from the last checkpoint."
    )


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
