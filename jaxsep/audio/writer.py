"""Writing audio: float32 blocks (time, channel) to wav, flac, ogg and mp3 files that appear only when complete.

What can be written how is in formats.py. No resampling, no jax.
"""

import math
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import numpy as np
import soundfile
from jaxtyping import Float32

from jaxsep import unfinished
from jaxsep.audio.channel_order import to_vorbis
from jaxsep.audio.formats import BYTES_PER_SAMPLE, MAX_WAV_DATA_BYTES, check_output, choose_subtype, compression
from jaxsep.audio.output_file import OutputFile
from jaxsep.audio.reader import probe
from jaxsep.audio.tags import clean_tags
from jaxsep.errors import AudioError, ConfigError
from jaxsep.naming import give_names, temporary_path, told_of_other_names

_SCALE_BITS = {"PCM_16": 16, "PCM_24": 24}
# Samples quantised at a time: what stays in a core's cache.
_PIECE = 32768


# Folders that were not there before. Files of several inputs can lie below one of them, and the last that is discarded
# takes it away, whichever made it.
_made_by_this_process: set[Path] = set()


class AudioWriter:
    """Writes one file, block by block, under a temporary name that becomes the final one when all is there.

    Integers are the nearest to `x * 2**(bits - 1)`, clipped to their range, so that reading gives exactly what a reader
    of PCM gave. The bytes of wav and flac depend on the arguments and the samples alone, not on the clock or the cut
    into blocks.

    Attributes:
        path: The final name.
        frames: Number of frames written so far.
        peak: The largest absolute sample so far, 1 being full scale.
        clipped: Number of samples so far that lay beyond full scale: PCM is clipped there when it is written, mp3 and
            ogg when they are played. 0 for floats.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sample_rate: int,
        channels: int,
        format: str,
        subtype: str,
        bitrate_kbps: int | None = None,
        tags: Mapping[str, str] | None = None,
        replace: bool = True,
    ) -> None:
        """Creates missing folders and the temporary file.

        Args:
            path: The final name.
            sample_rate: Sample rate in Hz.
            channels: Of every block.
            format: A key of `SUBTYPES`.
            subtype: One of `SUBTYPES[format]`.
            bitrate_kbps: Of mp3, exact and constant; of ogg, the nominal average of stereo at 44.1 kHz. None is 320, or
                the highest that mp3 has at this sample rate.
            tags: What the file says of its song, by the names of `jaxsep.audio.tags.TAGS`.
            replace: Whether a regular file that has the final name by the time that this one is complete goes. If not,
                this one gets another name, and an error says which.

        Raises:
            ConfigError: These do not go together; see `check_output`.
            AudioError: The file cannot be created.
        """
        check_output(format, subtype, bitrate_kbps, sample_rate, channels)
        self.path = Path(path)
        _refuse_what_cannot_be_replaced(self.path)
        self.frames = 0
        self.peak = 0.0
        self.clipped = 0
        self._sum_of_squares = 0.0
        self._finished = self._named = False
        self._replace = replace
        self._made_folders: list[Path] = []
        self._sample_rate = sample_rate
        self._channels = channels
        self._format = format
        self._subtype = choose_subtype(format, subtype, subtype)
        self._order = to_vorbis(channels) if self._subtype == "VORBIS" else None
        self._temporary = temporary_path(self.path)
        try:
            with unfinished.changing_names:
                parents = self.path.absolute().parents
                _made_by_this_process.update(folder for folder in parents if not folder.exists())
                self._made_folders = [folder for folder in parents if folder in _made_by_this_process]
                unfinished.begin(self._temporary, self._made_folders)
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file: OutputFile | None = OutputFile(self._temporary)
        except OSError as error:
            self._file = None
            self.discard()
            raise AudioError(f"{self.path} cannot be written: {error.strerror}.") from None
        self._encoder: soundfile.SoundFile | None = None
        level, mode = compression(format, bitrate_kbps, sample_rate)
        try:
            self._encoder = soundfile.SoundFile(
                self._file,
                "w",
                sample_rate,
                channels,
                subtype,
                format=format.upper(),
                compression_level=level,
                bitrate_mode=mode,
            )
        except soundfile.LibsndfileError as error:
            self.discard()
            raise ConfigError(
                f"libsndfile cannot write {format} ({subtype}) of {channels} channels at {sample_rate} Hz: "
                f"{error.error_string}"
            ) from None
        for name, value in clean_tags(tags or {}).items():
            with suppress(soundfile.LibsndfileError):  # a tag that a format has no place for is no reason to fail
                setattr(self._encoder, name, value)
        self._fail_where_the_disk_did(self._file)

    @property
    def rms(self) -> float:
        """The root mean square of all samples so far."""
        return math.sqrt(self._sum_of_squares / max(1, self.frames * self._channels))

    @property
    def is_closed(self) -> bool:
        """Whether the file has its name, or is gone."""
        return self._file is None or self._encoder is None

    def write(self, block: Float32[np.ndarray, "time channel"]) -> None:
        """Appends a block.

        Args:
            block: Samples, full scale being 1.

        Raises:
            AudioError: A sample is NaN or infinite, the number of channels is another, or the disk takes no more; the
                temporary file is then gone.
        """
        if self._file is None or self._encoder is None:
            raise AudioError(f"{self.path} is already closed.")
        if block.ndim != 2 or block.shape[1] != self._channels:
            self.discard()
            raise AudioError(f"{self.path} takes blocks (time, {self._channels}), not of shape {block.shape}.")
        if self._format == "wav":
            size = (self.frames + len(block)) * self._channels * BYTES_PER_SAMPLE[self._subtype]
            if size > MAX_WAV_DATA_BYTES:
                self._fail("a wav file holds no more than 4 GiB; write flac")
        samples = np.ascontiguousarray(block, np.float32).reshape(-1)
        with np.errstate(over="ignore"):  # samples far beyond full scale are clipped like all others
            encoded = self._encode(samples)
        frames = encoded.reshape(-1, self._channels)
        try:
            self._encoder.write(frames if self._order is None else frames[:, self._order])
        except soundfile.LibsndfileError as error:
            self._fail(error.error_string)
        self._fail_where_the_disk_did(self._file)
        self.frames += len(block)

    def finish(self) -> None:
        """Completes the file under its temporary name: all that can fail but the renaming. Can be called again.

        Raises:
            AudioError: Nothing was written, or the disk took less than was written; the temporary file is then gone.
        """
        if self._file is None or self._encoder is None or self._finished:
            return
        if self.frames == 0:
            self._fail("there are no samples to write")
        try:
            self._encoder.close()
        except soundfile.LibsndfileError as error:
            self._fail(error.error_string)
        self._fail_where_the_disk_did(self._file)
        try:
            if self._subtype == "FLOAT":
                self._file.clear_time_stamp()
            self._file.close()
            found = probe(self._temporary).frames
            complete = self._temporary.stat().st_size == self._file.size
        except OSError as error:
            self._fail(str(error.strerror))
        except AudioError:
            self._fail("what was written cannot be read")
        if found != self.frames or not complete:
            self._fail(f"{self.frames} frames were written and not all of them arrived")
        self._finished = True

    def close(self) -> None:
        """Completes the file and gives it its name. Can be called again.

        Raises:
            AudioError: As for `finish`, the file cannot be renamed, or it has another name, since a file with its name
                came to exist.
        """
        close_together([self])

    def discard(self) -> None:
        """Removes the temporary file, and folders made for it that hold nothing else. After `close` it does nothing.

        Can be called again: when others have discarded what they had in a folder, it goes.
        """
        if self._named:
            return
        if self._file is not None:
            file, self._file = self._file, None
            file.ignore_writes()
            if self._encoder is not None:
                with suppress(soundfile.LibsndfileError):
                    self._encoder.close()
            file.close()
            with suppress(OSError):
                self._temporary.unlink()
        unfinished.end(self._temporary)
        with suppress(OSError):
            for folder in self._made_folders:
                folder.rmdir()
                _made_by_this_process.discard(folder)

    def __enter__(self) -> "AudioWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _has_its_name(self) -> None:
        unfinished.end(self._temporary)
        self._file = None
        self._named = True

    def _encode(self, samples: np.ndarray) -> np.ndarray:
        """Measures samples and returns what libsndfile takes: floats, or integers in the upper bits of 16 or 32."""
        bits = _SCALE_BITS.get(self._subtype)
        encoded = samples if bits is None else np.empty(len(samples), np.int16 if bits == 16 else np.int32)
        # Piece by piece: one pass through memory instead of six.
        for start in range(0, len(samples), _PIECE):
            piece = samples[start : start + _PIECE]
            low, high = float(piece.min()), float(piece.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                self._refuse_what_is_not_finite(samples)
            self.peak = max(self.peak, -low, high)
            self._sum_of_squares += float(np.dot(piece, piece))
            if bits is not None:
                encoded[start : start + len(piece)] = self._quantise(piece, bits, low, high)
            elif self._subtype != "FLOAT" and (low < -1 or high > 1):
                self.clipped += int(np.count_nonzero(np.abs(piece) > 1))
        if bits == 24:
            np.left_shift(encoded, 8, out=encoded)
        return encoded

    def _quantise(self, piece: np.ndarray, bits: int, low: float, high: float) -> np.ndarray:
        """Rounds to the nearest integers of `bits`, as floats; `low` and `high` are the extremes of the piece."""
        scale = 2 ** (bits - 1)
        rounded = piece * np.float32(scale)
        np.rint(rounded, out=rounded)
        if low * scale < -scale or high * scale > scale - 1:
            self.clipped += int(np.count_nonzero((rounded < -scale) | (rounded > scale - 1)))
            np.clip(rounded, -scale, scale - 1, out=rounded)
        return rounded

    def _refuse_what_is_not_finite(self, samples: np.ndarray) -> None:
        first = np.flatnonzero(~np.isfinite(samples))[0]
        seconds = (self.frames + first // self._channels) / self._sample_rate
        self._fail(f"it would hold {samples[first]} at {seconds:.6f} s")

    def _fail_where_the_disk_did(self, file: "OutputFile") -> None:
        if file.error is not None:
            self._fail(str(file.error.strerror))

    def _fail(self, reason: str) -> NoReturn:
        self.discard()
        raise AudioError(f"{self.path} cannot be written: {reason.rstrip('.')}.")


def close_together(writers: Sequence[AudioWriter]) -> None:
    """Completes files and gives them their names, so that all have theirs or none has. Can be called again.

    Args:
        writers: Those of the files.

    Raises:
        AudioError: As for `AudioWriter.finish`, a file cannot be renamed, or the files have other names than they
            should, since a file that is not to be replaced came to exist while they were written.
    """
    open_ones = [writer for writer in writers if not writer.is_closed]
    for writer in open_ones:
        writer.finish()
    if not open_ones:
        return
    final, replaced = [writer.path for writer in open_ones], [writer._replace for writer in open_ones]
    with unfinished.changing_names:
        try:
            names = give_names([writer._temporary for writer in open_ones], final, replaced)
        except OSError as error:
            open_ones[0]._fail(str(error.strerror))
        for writer in open_ones:
            writer._has_its_name()
    if sentence := told_of_other_names(final, names, replaced):
        raise AudioError(sentence)


def _refuse_what_cannot_be_replaced(path: Path) -> None:
    """Raises where the final name cannot be a file's, so that this shows before the work and not after."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # the latter is reported when folders are made
        return
    except OSError as error:
        raise AudioError(f"{path} cannot be written: {error.strerror}.") from None
    except ValueError as error:
        raise AudioError(f"{str(path)!r} is not a file name: {error}.") from None
    if not stat.S_ISREG(mode):
        raise AudioError(f"{path} exists and is not a regular file; choose another name.")
