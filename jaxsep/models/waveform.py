"""The domain of networks from the waveform of a mixture to those of its sources."""

from collections.abc import Mapping
from typing import Any, Literal, NoReturn

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsep.config import Config
from jaxsep.dsp.cuts import Chunking, Cuts, SampleCuts, WholeTrack
from jaxsep.dsp.overlap_add import overlap_add, split_into_chunks
from jaxsep.dsp.wiener import WienerConfig
from jaxsep.errors import ConfigError, SeparationError
from jaxsep.models.context import Apply, Context, Weights, select
from jaxsep.models.cutting import changed_cutting, hop_of
from jaxsep.models.family import FamilyConfig
from jaxsep.typing import SourceWaveform
from jaxsep.typing import Waveform as WaveformArray


class Waveform(Config):
    """A network from the waveform of a mixture to those of its sources.

    Attributes:
        kind: Always 'waveform'.
    """

    kind: Literal["waveform"] = "waveform"

    def encode(self, mixture: WaveformArray, weights: Weights | None = None) -> tuple[WaveformArray, Context]:
        """Returns what the network sees, and what `decode` needs again.

        Args:
            mixture: Waveforms (*batch, time, channel): chunks, or training examples.
            weights: Weights of a chunk's estimates; None for 1.
        """
        return mixture, Context(None, weights)

    def decode(
        self,
        outputs: Float[Array, "*batch source out_time channel"],
        context: Context,
        sources: tuple[int, ...] | None = None,
    ) -> Float[Array, "*batch chosen out_time channel"]:
        """Returns weighted waveforms of the chosen sources, or of all.

        Args:
            outputs: What the network gave.
            context: From `encode`.
            sources: Numbers of the sources to return.
        """
        chosen = select(outputs, sources, axis=-3)
        if context.weights is None:
            return chosen
        return chosen * context.weights[..., None, :, None]

    def targets(self, sources: SourceWaveform) -> SourceWaveform:
        """Returns true sources as the network should give them."""
        return sources

    def for_training(self) -> "Waveform":
        """Returns the domain as a loss sees it."""
        return self

    def input_domain(self) -> "Waveform":
        """Returns the part of the domain that decides what the network sees."""
        return self

    def interior(self, length: int) -> slice:
        """Returns which samples of a decoded example of `length` samples are complete."""
        return slice(0, length)

    def input_shape(self, length: int, channels: int) -> tuple[int, ...]:
        """Returns the shape of what the network sees of `length` samples."""
        return (length, channels)

    def output_shape(self, length: int, config: FamilyConfig) -> tuple[int, ...]:
        """Returns the shape of what it gives of each source."""
        return (config.output_length(length), config.channels)

    def bandwidth_hz(self, sample_rate: int) -> float:
        """Returns up to which frequency stems are estimated."""
        return sample_rate / 2

    def cuts(self, cutting: Chunking | WholeTrack, config: FamilyConfig) -> Cuts:
        """Returns how tracks are cut.

        Raises:
            ConfigError: The cutting is not one for networks on waveforms.
        """
        if isinstance(cutting, WholeTrack):
            raise ConfigError("whole tracks in pieces exist for networks on magnitudes alone; cut into chunks")
        return SampleCuts(cutting, input_length=config.input_length, output_length=config.output_length)

    def recut(
        self, cutting: Chunking, config: FamilyConfig, *, chunk: int | None, overlap: float | int | None
    ) -> Chunking:
        """Returns chunks of another length, or with another overlap.

        Args:
            cutting: What is published.
            config: Of the network, which says which lengths it takes.
            chunk: Samples to be estimated of a chunk, or a few more; None for as many as before.
            overlap: Shared fraction of neighbouring chunks below 1, or, from 2 on, how many chunks see each sample;
                None for the share that it had.
        """
        estimate_length = cutting.estimate_length
        chunk_length = cutting.chunk_length
        if chunk is not None:
            chunk_length = config.input_length(chunk)
            given = config.output_length(chunk_length)
            # Where the estimates of all that is seen are used, more of them are; otherwise so many as were asked for.
            estimate_length = given if cutting.estimate_length == config.output_length(cutting.chunk_length) else chunk
        hop = hop_of(estimate_length, overlap, share=cutting.chunk_hop / cutting.estimate_length)
        return changed_cutting(cutting, chunk_length, estimate_length, hop)

    def complete(self, cutting: Mapping[str, Any], config: FamilyConfig) -> dict[str, Any]:
        """Returns chunks with the lengths that nothing is said of: from one number of samples follow the others.

        Args:
            cutting: Keys of a `Chunking` as a user gave them: of its lengths, `chunk_length` or `estimate_length` do.
            config: The network's config, which says what it takes and gives.

        Raises:
            ConfigError: The network does not take what follows.
        """
        completed = dict(cutting)
        chunk_length, estimate_length = cutting.get("chunk_length"), cutting.get("estimate_length") or None
        if chunk_length is None and isinstance(estimate_length, int):
            completed["chunk_length"] = config.input_length(estimate_length)
        if estimate_length is None and isinstance(chunk_length, int):
            completed["estimate_length"] = config.output_length(chunk_length)
        return {"chunk_hop": completed["estimate_length"], **completed} if "estimate_length" in completed else completed

    def estimate_track(
        self,
        apply: Apply,
        mixture: WaveformArray,
        cutting: Chunking | WholeTrack,
        config: FamilyConfig,
        wiener: WienerConfig | None,
    ) -> SourceWaveform:
        """Separates a whole track; see `jaxsep.separation.estimate.estimate_sources`."""
        if wiener is not None:
            self.magnitudes("the Wiener filter")
        cuts = self.cuts(cutting, config)
        groups = []
        for chunks in split_into_chunks(mixture, cuts):
            inputs, context = self.encode(chunks.samples, chunks.weights)
            groups.append((chunks, jnp.moveaxis(self.decode(apply(inputs), context), -3, -4)))
        return overlap_add(groups, cuts, length=mixture.shape[-2])

    def check_length(self, length: int, config: FamilyConfig) -> None:
        """Refuses training examples of so many samples, where the network does not take them.

        Raises:
            ConfigError: It does not.
        """
        config.output_length(length)

    def check(self, config: FamilyConfig, stems: int, cutting: Chunking | WholeTrack) -> None:
        """Refuses what cannot go together.

        Raises:
            ConfigError: One sentence.
        """
        self.cuts(cutting, config)
        assert isinstance(cutting, Chunking)
        given = config.output_length(cutting.chunk_length)
        if given < cutting.estimate_length:
            raise ConfigError(
                f"of a chunk of {cutting.chunk_length} samples the network estimates {given}, "
                f"and estimate_length is {cutting.estimate_length}"
            )
        if cutting.estimate_length == cutting.chunk_length and given != cutting.chunk_length:
            raise ConfigError(f"of a chunk of {cutting.chunk_length} samples the network estimates {given}")

    def magnitudes(self, what: str) -> NoReturn:
        """Refuses what exists for magnitudes alone.

        Args:
            what: Subject of the message.

        Raises:
            SeparationError: Always.
        """
        raise SeparationError(
            f"This model works on waveforms: it has no magnitudes or masks, which {what} needs; leave that out."
        )
