"""Frames of a track between two passes: joined from chunks that may overlap, and kept in a temporary file."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float

from jaxsep.dsp.cuts import FrameCuts

# Magnitudes of all groups of channels.
GroupMagnitudes = Float[np.ndarray, "group source frame bin channel"]


class FrameJoiner:
    """Joins the magnitudes of chunks, which may overlap, and cuts them into pieces of other lengths.

    Frames that several chunks share have the weighted mean of their magnitudes.
    """

    def __init__(self, cuts: FrameCuts, piece_frames: int) -> None:
        """Starts in front of a track.

        Args:
            cuts: How the chunks were cut.
            piece_frames: Frames of each piece.
        """
        self._cuts, self._piece_frames = cuts, piece_frames
        self._overlapping = cuts.frame_hop < cuts.frames
        # Weighted sums that wait for the next chunk, and finished frames that wait for the rest of their piece.
        self._sums: GroupMagnitudes | None = None
        self._weights = np.zeros(0)
        self._finished: list[GroupMagnitudes] = []

    def push(self, magnitudes: GroupMagnitudes) -> Iterator[GroupMagnitudes]:
        """Yields the pieces that a further chunk completes."""
        if not self._overlapping:
            yield from self._cut(magnitudes)
            return
        window = self._cuts.weights
        weighted = magnitudes * window[:, None, None]
        weights = window.astype(np.float64)
        if self._sums is not None:
            shared = self._sums.shape[2]
            weighted[:, :, :shared] += self._sums
            weights[:shared] += self._weights
        hop = self._cuts.frame_hop
        self._sums, self._weights = weighted[:, :, hop:].copy(), weights[hop:]
        yield from self._cut(weighted[:, :, :hop] / weights[:hop, None, None].astype(np.float32))

    def finish(self) -> Iterator[GroupMagnitudes]:
        """Yields the last piece, filled up with zeros."""
        if self._sums is not None:
            yield from self._cut(self._sums / self._weights[:, None, None].astype(np.float32))
        if self._finished:
            rest = np.concatenate(self._finished, axis=2)
            missing = self._piece_frames - rest.shape[2]
            yield np.pad(rest, [(0, 0), (0, 0), (0, missing), (0, 0), (0, 0)])

    def _cut(self, frames: GroupMagnitudes) -> Iterator[GroupMagnitudes]:
        size = self._piece_frames
        if not self._finished and frames.shape[2] == size:
            yield frames
            return
        joined = np.concatenate([*self._finished, frames], axis=2)
        whole = joined.shape[2] // size * size
        yield from (joined[:, :, start : start + size] for start in range(0, whole, size))
        self._finished = [joined[:, :, whole:]] if whole < joined.shape[2] else []


class FrameSpool:
    """Arrays of one shape in a temporary file, by number; gone when closed."""

    def __init__(self, directory: Path | None) -> None:
        """Makes no file before there is something to keep: the directory may come to exist until then.

        Args:
            directory: Where it lies; None for the system's place.
        """
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._shape: tuple[int, ...] | None = None
        self._count = 0

    def __enter__(self) -> "FrameSpool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes the file away."""
        if self._file is not None:
            self._file.close()

    def append(self, array: Float[np.ndarray, "..."]) -> None:
        """Puts an array behind the last one."""
        self.put(self._count, array)

    def put(self, index: int, array: Float[np.ndarray, "..."]) -> None:
        """Puts an array at a number."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory, prefix=".frames.")
            self._shape = array.shape
        assert array.shape == self._shape
        self._file.seek(index * self._bytes())
        self._file.write(np.ascontiguousarray(array, np.float32).data)
        self._count = max(self._count, index + 1)

    def get(self, index: int) -> Float[np.ndarray, "..."]:
        """Returns the array of a number; one that was never put is an error of this program."""
        assert self._file is not None and self._shape is not None and index < self._count
        self._file.seek(index * self._bytes())
        return np.frombuffer(self._file.read(self._bytes()), np.float32).reshape(self._shape)

    def _bytes(self) -> int:
        assert self._shape is not None
        return int(np.prod(self._shape)) * np.dtype(np.float32).itemsize
