"""Several separations of one mixture side by side, and the weighted mean of their estimates: shifts and ensembles."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from jaxsep.separation.mixtures import Mixture, Progress, Streamed
from jaxsep.typing import HostSourceWaveform

# Separates mixtures, as `Separator.stream_many` does.
Lane = Callable[[Iterable[Mixture]], Generator[Streamed, None, None]]


def lockstep(
    mixture: Mixture, lanes: Sequence[Lane], weights: Float[np.ndarray, "lane source"]
) -> Generator[Streamed, None, None]:
    """Runs lanes side by side, so that none is far ahead of another and little has to wait.

    Args:
        mixture: What all of them separate; its progress is told as one.
        lanes: What separates it, all with the same sources.
        weights: Weight of each source's estimate by each lane; the mean is divided by their sum.

    Yields:
        Blocks, and how the mixture ended: with the first error of a lane.
    """
    shares = (weights / weights.sum(axis=0)).astype(np.float32)
    mean = _Mean(shares)
    error: Exception | None = None
    with ExitStack() as stack:
        progress = _Progress(mixture, len(lanes))
        streams = [stack.enter_context(closing(lane([progress.of_lane(number)]))) for number, lane in enumerate(lanes)]
        running = set(range(len(lanes)))
        while running and error is None:
            behind = min(running, key=lambda lane: (mean.received[lane], lane))
            streamed = next(streams[behind])
            if streamed.estimates is None:
                error = streamed.error
                running.remove(behind)
            else:
                yield from (Streamed(mixture, block) for block in mean.push(behind, streamed.estimates))
    yield Streamed(mixture, error=error)


class _Mean:
    """The weighted mean of blocks that come from several lanes.

    Attributes:
        received: Samples received of each lane.
    """

    def __init__(self, shares: Float[np.ndarray, "lane source"]) -> None:
        self._shares = shares
        self.received = [0] * len(shares)
        # The weighted sum of what not all lanes have given yet, and where it begins.
        self._sum: HostSourceWaveform | None = None
        self._start = 0

    def push(self, lane: int, block: HostSourceWaveform) -> Iterator[HostSourceWaveform]:
        """Adds a lane's next block and yields what is complete."""
        share = self._shares[lane]
        own = np.flatnonzero(share)
        weighted = block[own] * share[own][:, None, None]
        begin = self.received[lane] - self._start
        end = begin + block.shape[1]
        self.received[lane] += block.shape[1]
        if self._sum is None:
            self._sum = np.zeros((len(share), 0, block.shape[2]), np.float32)
        missing = end - self._sum.shape[1]
        if missing > 0:
            self._sum = np.pad(self._sum, [(0, 0), (0, missing), (0, 0)])
        self._sum[own, begin:end] += weighted
        done = min(self.received) - self._start
        if done:
            finished, self._sum = self._sum[:, :done], self._sum[:, done:].copy()
            self._start += done
            yield finished


class _Progress:
    """Tells a mixture's callback of the lane that is furthest behind."""

    def __init__(self, mixture: Mixture, lanes: int) -> None:
        self._mixture = mixture
        self._done = [0.0] * lanes

    def of_lane(self, number: int) -> Mixture:
        """Returns the mixture for one lane."""
        return self._mixture.for_lane(lambda progress: self._report(number, progress))

    def _report(self, number: int, progress: Progress) -> bool | None:
        self._done[number] = progress.done_seconds
        if self._mixture.progress is None:
            return None
        return self._mixture.progress(replace(progress, done_seconds=min(self._done)))
