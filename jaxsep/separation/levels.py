"""The level of a whole track, by which some networks have it normalised: one pass over its blocks, in float64."""

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from jaxsep.models.procedure import Normalise
from jaxsep.separation.window import ChannelGroups
from jaxsep.typing import HostSourceWaveform, HostWaveform

Levelled = TypeVar("Levelled", HostWaveform, HostSourceWaveform)


class Levels(NamedTuple):
    """What is taken from each channel of a track, and what it is divided by.

    Attributes:
        mean: Mean of the channel's group of channels.
        divisor: Standard deviation of the group's mean of channels, as `Normalise` says.
    """

    mean: Float[np.ndarray, " channel"]
    divisor: Float[np.ndarray, " channel"]

    def normalised(self, block: Levelled) -> Levelled:
        """Returns a block (time, channel), or one of each source, as the network hears or gives it."""
        return (block - self.mean) / self.divisor

    def restored(self, estimates: HostSourceWaveform) -> HostSourceWaveform:
        """Returns estimates (source, time, channel) at the track's own level."""
        return estimates * self.divisor + self.mean


def measure_levels(blocks: Iterator[HostWaveform], normalise: Normalise, model_channels: int) -> Levels:
    """Reads a track and returns the levels of its channels.

    Args:
        blocks: The track from its beginning.
        normalise: What is computed.
        model_channels: Channels that the model takes; each group of so many is a track of its own.
    """
    count, groups, channels = 0, None, 0
    mean = squares = np.zeros(0)
    for block in blocks:
        if groups is None:
            channels = block.shape[1]
            groups = ChannelGroups(channels, model_channels)
            mean, squares = np.zeros(groups.count), np.zeros(groups.count)
        if not len(block):
            continue
        mono = np.stack([group.mean(axis=1, dtype=np.float64) for group in groups.split(block)])
        # Chan's update: sums of squares around each block's own mean lose no digits to an offset.
        own_mean, more = mono.mean(axis=1), mono.shape[1]
        own_squares = np.square(mono - own_mean[:, None]).sum(axis=1)
        squares += own_squares + np.square(own_mean - mean) * (count * more / (count + more))
        mean += (own_mean - mean) * (more / (count + more))
        count += more
    deviation = np.sqrt(squares / max(count - normalise.ddof, 1))
    divisor = deviation + normalise.eps
    divisor = np.where(divisor > normalise.floor, divisor, 1.0)
    of_channel = np.arange(channels) // model_channels
    return Levels(mean[of_channel].astype(np.float32), divisor[of_channel].astype(np.float32))
