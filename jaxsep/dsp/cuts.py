"""Where the chunks of a track lie, what each of them sees, and with which weights its estimates are added up.

Positions are samples of the track, negative in front of it. Host integers and numpy arrays; the device's part is in
overlap_add.py, the moving window's in separation/window.py.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pydantic
from jaxtyping import Float

from jaxsep.config import Config
from jaxsep.dsp.stft import Edges, STFTConfig, coverage, frame_count

WindowKind = Literal["none", "crossfade", "triangular", "fades"]
Last = Literal["padded", "shifted", "centred", "own_length", "reflected"]
Weights = Float[np.ndarray, " unit"]

# What msst's `demix` fades of each chunk, at either end.
_FADED_SHARE = 10


class Chunking(Config):
    """How a track is cut into the pieces that are separated one by one. All lengths in samples.

    Attributes:
        kind: Always 'chunks': pieces that are separated each by itself.
        chunk_length: Samples that the network sees of a chunk.
        chunk_hop: Samples from one chunk's estimates to the next.
        estimate_length: Samples of a chunk that are estimated, in its middle; 0 for all of them.
        window: Weights of overlapping estimates: 'none' for the plain mean, 'crossfade' for ramps over what neighbours
            share, 'triangular' for one triangle over the whole estimate (Demucs), 'fades' for ramps over a tenth of the
            chunk at either end, which are left out at the track's ends (msst).
        window_power: Power to which a triangular window is raised (Demucs's transition_power).
        window_batch: Chunks that share the window of the first or last one under 'fades' (msst's inference.batch_size).
        last: What the last chunk sees. 'padded': zeros behind the track. 'shifted': the track's end, so that its
            estimates replace some of the chunk before (the Wave-U-Net). 'centred': the rest of the track in the middle,
            real audio before it and zeros behind (HT Demucs). 'own_length': the rest of the track alone, rounded up to
            what the network takes (the other Demucs, Conv-TasNet). 'reflected': the rest and its reflection where it is
            more than half a chunk, otherwise zeros; the track's own ends are reflected too, where it is longer than
            twice what chunks overlap (msst). Under the last three, a chunk begins at every multiple of the hop below
            the track's length.
    """

    kind: Literal["chunks"] = "chunks"
    chunk_length: int = pydantic.Field(gt=0)
    chunk_hop: int = pydantic.Field(gt=0)
    estimate_length: int = pydantic.Field(default=0, gt=0, validate_default=True)
    window: WindowKind = "none"
    window_power: float = pydantic.Field(default=1.0, ge=1)
    window_batch: int = pydantic.Field(default=1, ge=1)
    last: Last = "padded"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _everything_is_estimated_unless_said(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("estimate_length", 0) == 0 and "chunk_length" in data:
            return {**data, "estimate_length": data["chunk_length"]}
        return data

    @pydantic.model_validator(mode="after")
    def _chunks_cover_the_track(self) -> "Chunking":
        if self.estimate_length > self.chunk_length:
            raise ValueError(
                f"estimate_length (= {self.estimate_length}) must not exceed chunk_length (= {self.chunk_length})"
            )
        if self.chunk_hop > self.estimate_length:
            raise ValueError(
                f"chunk_hop (= {self.chunk_hop}) must not exceed estimate_length (= {self.estimate_length})"
            )
        if self.last == "shifted" and (self.chunk_hop != self.estimate_length or self.window != "none"):
            raise ValueError(
                "a last chunk can be shifted where estimates lie side by side: chunk_hop all of what is estimated, "
                "window 'none'"
            )
        if self.last in ("centred", "reflected") and self.estimate_length != self.chunk_length:
            raise ValueError(f"a last chunk that is {self.last} is for networks that estimate all of what they see")
        if (self.window == "fades") != (self.last == "reflected"):
            raise ValueError("window 'fades' and last 'reflected' are two halves of one procedure; use both or neither")
        if self.window == "fades" and self.overlap < 2:
            raise ValueError(
                f"the window 'fades' is zero at both ends of a chunk, so that chunks must share two samples or more: "
                f"the overlap of chunk_length {self.chunk_length} and chunk_hop {self.chunk_hop} is {self.overlap}"
            )
        return self

    @property
    def context(self) -> int:
        """Samples before a chunk's estimates that the network sees and does not estimate."""
        return (self.chunk_length - self.estimate_length) // 2

    @property
    def overlap(self) -> int:
        """Samples that the estimates of neighbouring chunks share."""
        return self.estimate_length - self.chunk_hop


class WholeTrack(Config):
    """Says that the network hears the track from end to end, by passes over pieces of one length.

    Attributes:
        kind: Always 'whole_track'.
        chunk_length: Samples of a piece; also the length of a training example, unless a recipe says otherwise.
    """

    kind: Literal["whole_track"] = "whole_track"
    chunk_length: int = pydantic.Field(gt=0)


class Cut(NamedTuple):
    """One chunk of a track.

    Attributes:
        start: Position of its first estimate in the track.
        length: Samples of its estimates that are used.
        seen_start: Position of the first sample that the network sees.
        seen_length: Samples that the network sees.
        final: Position of the next chunk's first estimate, up to which no later chunk changes anything.
        offset: Place of the first used estimate in what the network gives.
        weights: Weight of each unit that the network gives: of samples, or of frames.
        fill: What the network sees behind the track's end: zeros, or the reflected rest of the track.
    """

    start: int
    length: int
    seen_start: int
    seen_length: int
    final: int
    offset: int
    weights: Weights
    fill: Literal["zeros", "reflect"] = "zeros"


@runtime_checkable
class Cuts(Protocol):
    """All chunks of tracks, for one model.

    Attributes:
        edges: What is before the track and behind it.
        shortest: Samples to which shorter tracks are extended by zeros.
        divided: Whether estimates have to be divided by the sum of their weights.
        lookback: Samples before a chunk that the last one may see instead of what is behind the track.
    """

    @property
    def edges(self) -> Edges:
        """What is before the track and behind it."""
        ...

    @property
    def shortest(self) -> int:
        """Samples to which shorter tracks are extended by zeros."""
        ...

    @property
    def divided(self) -> bool:
        """Whether estimates have to be divided by the sum of their weights."""
        ...

    @property
    def lookback(self) -> int:
        """Samples before a chunk that the last one may see instead of what is behind the track."""
        ...

    def undecided(self, received: int) -> bool:
        """Whether a track of so many samples, or more, may still come to be cut in one way or another."""
        ...

    def of_length(self, received: int) -> "Cuts":
        """Returns the cuts of tracks of so many samples, where these differ from those of others."""
        ...

    def count(self, length: int) -> int:
        """Returns how many chunks a track of `length` samples takes."""
        ...

    def cut(self, index: int, length: int | None) -> Cut:
        """Returns a chunk of a track of `length` samples; None where the track goes on well behind it."""
        ...

    def is_certain(self, index: int, received: int) -> bool:
        """Whether a chunk is the same whatever follows the `received` samples that are known of a track."""
        ...

    def share(self, cut: Cut) -> Weights:
        """Returns the weight (time,) of each used estimate of a chunk."""
        ...


class SampleCuts:
    """The chunks of tracks for a network whose estimates are samples; see `Cuts`."""

    shortest = 0

    def __init__(
        self,
        chunking: Chunking,
        *,
        input_length: Callable[[int], int] = lambda length: length,
        output_length: Callable[[int], int] = lambda length: length,
        border: int | None = None,
    ) -> None:
        """Prepares to cut.

        Args:
            chunking: How to cut.
            input_length: Gives the samples that the network has to see for so many estimates.
            output_length: Gives the estimates that it makes of so many samples.
            border: Samples that are reflected at the track's ends; None for what the chunking asks for.
        """
        self._chunking = chunking
        self._input_length, self._output_length = input_length, output_length
        self._asked = chunking.overlap if chunking.last == "reflected" else 0
        self._border = self._asked if border is None else border
        self.edges = Edges(self._border, reflected=self._border > 0)
        self.divided = chunking.overlap > 0 or chunking.window not in ("none", "crossfade")
        self.lookback = chunking.chunk_length if chunking.last in ("shifted", "centred", "own_length") else 0

    def undecided(self, received: int) -> bool:
        """See `Cuts`."""
        return 0 < received <= 2 * self._asked

    def of_length(self, received: int) -> "SampleCuts":
        """See `Cuts`: ends are reflected only where the track is longer than twice the border."""
        border = self._asked if received > 2 * self._asked else 0
        if border == self._border:
            return self
        return SampleCuts(
            self._chunking, input_length=self._input_length, output_length=self._output_length, border=border
        )

    def count(self, length: int) -> int:
        """See `Cuts`."""
        chunking, extended = self._chunking, length + 2 * self._border
        if chunking.last == "shifted":
            count = -(-max(length, chunking.chunk_length) // chunking.chunk_hop)
            while count > 1 and self._start(count - 1, length) >= length:
                count -= 1
            return count
        if chunking.last == "padded":
            return 1 + max(-(-(extended - chunking.estimate_length) // chunking.chunk_hop), 0)
        return -(-extended // chunking.chunk_hop)

    def cut(self, index: int, length: int | None) -> Cut:
        """See `Cuts`."""
        chunking = self._chunking
        start = self._start(index, length)
        end = None if length is None else length + self._border
        used = chunking.estimate_length if end is None else min(chunking.estimate_length, end - start)
        seen_length = chunking.chunk_length
        fill: Literal["zeros", "reflect"] = "zeros"
        if chunking.last in ("centred", "own_length") and used < chunking.estimate_length:
            if chunking.last == "own_length":
                seen_length = self._input_length(used)
            seen_start = start - (seen_length - used) // 2
        else:
            seen_start = start - chunking.context
        if chunking.last == "reflected" and used > chunking.chunk_length // 2:
            fill = "reflect"
        given = self._output_length(seen_length)
        offset = start - seen_start - (seen_length - given) // 2
        window = self._window(index, length)
        if chunking.last == "shifted" and length is not None and index + 1 < self.count(length):
            replaced_from = self._start(index + 1, length) - start
            window = np.where(np.arange(len(window)) < replaced_from, window, np.float32(0))
        if (offset, used, given) == (0, len(window), len(window)):
            weights = window
        else:
            weights = np.zeros(given, np.float32)
            weights[offset : offset + used] = window[:used]
        final = self._start(index + 1, length)
        return Cut(start, used, seen_start, seen_length, final, offset, weights, fill)

    def is_certain(self, index: int, received: int) -> bool:
        """See `Cuts`."""
        chunking = self._chunking
        ahead = index + 1 if chunking.last == "shifted" else index
        # Where the track's right context ends, its own end may come to lie.
        if self._start(ahead, None) - chunking.context + chunking.chunk_length > received:
            return False
        if chunking.window != "fades" or (index == 0 and chunking.window_batch == 1):
            return True
        next_batch = (index // chunking.window_batch + 1) * chunking.window_batch
        return self._start(next_batch, None) < received + self._border

    def share(self, cut: Cut) -> Weights:
        """See `Cuts`."""
        return cut.weights[cut.offset : cut.offset + cut.length]

    def _start(self, index: int, length: int | None) -> int:
        chunking = self._chunking
        start = index * chunking.chunk_hop - self._border
        if length is None or chunking.last != "shifted":
            return start
        return min(start, max(length, chunking.chunk_length) - chunking.chunk_hop)

    def _window(self, index: int, length: int | None) -> Weights:
        """Returns the weights of a whole chunk's estimates."""
        chunking = self._chunking
        window = _window(chunking.window, chunking.estimate_length, chunking.overlap, chunking.window_power)
        if chunking.window != "fades":
            return window
        batch, faded = chunking.window_batch, chunking.chunk_length // _FADED_SHARE
        count = None if length is None else self.count(length)
        # As in `demix`: a batch is the first one where it holds no chunk but the first, whatever it is called.
        if index == 0 and (batch == 1 or count == 1):
            return np.concatenate([np.ones(faded, np.float32), window[faded:]])
        if count is not None and index // batch == (count - 1) // batch:
            return np.concatenate([window[: len(window) - faded], np.ones(faded, np.float32)])
        return window


class FrameCuts:
    """The chunks of tracks for a network whose estimates are frames of a transform; see `Cuts`.

    Each chunk's frames are transformed back by themselves; estimates fade at its ends as the transform does, and
    weights are of whole frames.
    """

    lookback = 0

    def __init__(self, chunking: Chunking, transform: STFTConfig) -> None:
        """Prepares to cut.

        Args:
            chunking: How to cut, in whole frames.
            transform: The transform around the network.
        """
        self._chunking, self._transform = chunking, transform
        self.frames = (chunking.chunk_length - transform.n_fft) // transform.hop_length + 1
        self.frame_hop = chunking.chunk_hop // transform.hop_length
        self.edges = transform.edges
        self.shortest = self.edges.shortest()
        overlap = self.frames - self.frame_hop
        # Frames that no other chunk has need no weights: nothing divides by them.
        window = chunking.window if overlap > 0 else "none"
        self.weights = _window(window, self.frames, overlap, chunking.window_power)
        self.divided = overlap > 0 or transform.convention == "torch"

    def undecided(self, received: int) -> bool:
        """See `Cuts`."""
        return received < self.shortest

    def of_length(self, received: int) -> "FrameCuts":
        """See `Cuts`."""
        return self

    def total_frames(self, length: int) -> int:
        """Returns how many frames the transform of a track of `length` samples has."""
        return frame_count(max(length, self.shortest), self._transform)

    def count(self, length: int) -> int:
        """See `Cuts`."""
        return 1 + max(-(-(self.total_frames(length) - self.frames) // self.frame_hop), 0)

    def cut(self, index: int, length: int | None) -> Cut:
        """See `Cuts`."""
        chunk_length = self._chunking.chunk_length
        start = index * self._chunking.chunk_hop - self.edges.length
        weights = self.weights
        if length is not None:
            # Frames that the whole track's transform does not have take no part.
            there = self.total_frames(length) - index * self.frame_hop
            if there < self.frames:
                weights = np.where(np.arange(self.frames) < there, weights, np.float32(0))
        final = start + self._chunking.chunk_hop
        return Cut(start, chunk_length, start, chunk_length, final, 0, weights)

    def is_certain(self, index: int, received: int) -> bool:
        """See `Cuts`."""
        return self._start_after(index) <= received

    def share(self, cut: Cut) -> Weights:
        """See `Cuts`."""
        if cut.weights is self.weights:
            return _coverage(tuple(self.weights.tolist()), self._transform)
        return coverage(cut.weights, self._transform)

    def _start_after(self, index: int) -> int:
        return index * self._chunking.chunk_hop - self.edges.length + self._chunking.chunk_length


@cache
def _coverage(weights: tuple[float, ...], transform: STFTConfig) -> Weights:
    return coverage(np.asarray(weights), transform)


@cache
def _window(kind: WindowKind, length: int, overlap: int, power: float) -> Weights:
    """Returns the weights of estimates, or frames, none of which may be changed."""
    if kind == "crossfade":
        fade = max(overlap, 1)
        rise = np.minimum(np.arange(1, length + 1), fade) / fade
        window = np.minimum(rise, rise[::-1])
    elif kind == "triangular":
        window = np.concatenate([np.arange(1, length // 2 + 1), np.arange(length - length // 2, 0, -1)])
        window = (window / window.max()) ** power
    elif kind == "fades":
        window, faded = np.ones(length), length // _FADED_SHARE
        if faded:
            window[-faded:] = np.linspace(1, 0, faded)
            window[:faded] = np.linspace(0, 1, faded)
    else:
        window = np.ones(length)
    window = window.astype(np.float32)
    window.setflags(write=False)
    return window
