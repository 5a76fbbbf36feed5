"""ModelSpec: everything that is needed, beside the arrays, to run a set of weights. No arrays, no files."""

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from jaxsep.config import Config
from jaxsep.dsp.masks import MaskConfig
from jaxsep.dsp.overlap_add import Chunking, Last
from jaxsep.dsp.stft import STFTConfig
from jaxsep.errors import ConfigError, nearest

FORMAT_VERSION = 1


def whole_frames(transform: STFTConfig, frames: int) -> Chunking:
    """Returns how a track is cut for a network on magnitudes: chunks of so many frames.

    Frames that lie in two chunks share samples with both, which an inverse transform makes fade by themselves.
    """
    chunk_hop = frames * transform.hop_length
    return Chunking(
        chunk_length=chunk_hop + transform.n_fft - transform.hop_length, chunk_hop=chunk_hop, lead=transform.n_fft
    )


def whole_outputs(input_length: int, output_length: int, *, last: Last) -> Chunking:
    """Returns how a track is cut for a network on waveforms whose estimates belong to the middle of what it sees.

    Every sample is estimated once, with all of its context; zeros stand in front of the track and behind it.

    Args:
        input_length: Samples that the network sees.
        output_length: Samples that it estimates, fewer by an even number.
        last: What becomes of the last chunk.
    """
    context = (input_length - output_length) // 2
    return Chunking(chunk_length=input_length, chunk_hop=output_length, lead=context, context=context, last=last)


class ModelSpec(Config):
    """All that is needed to run a set of weights.

    Attributes:
        name: What the model is called in the catalogue and in reports.
        family: A key of `jaxsep.models.FAMILIES`.
        config: The family's own config.
        stems: The names of the sources, in the order of the model's output.
        sample_rate: Of the audio that the model takes and gives, in Hz.
        channels: Of that audio.
        bandwidth_hz: Up to where the model estimates; above it the stems are what the mask extension makes of them.
        stft: The transform around a network in the magnitude domain; None for one on waveforms.
        masks: How source magnitudes become masks; None for a network on waveforms.
        chunking: How a track is cut.
        stereo: What the two channels are that network, masks and filter see: 'left_right', or 'mid_side', the sum and
            the difference of left and right over the root of two. What lies in the middle then has a channel to itself.
        licence: Of the weights.
        provenance: Where the weights come from.
        format_version: Of this description; a reader reads its own and all older ones.
    """

    name: str
    family: str
    config: pydantic.SerializeAsAny[Config]
    stems: tuple[str, ...] = pydantic.Field(min_length=1)
    sample_rate: int = pydantic.Field(gt=0)
    channels: int = pydantic.Field(gt=0)
    bandwidth_hz: float = pydantic.Field(gt=0)
    stft: STFTConfig | None = None
    masks: MaskConfig | None = None
    chunking: Chunking
    stereo: Literal["left_right", "mid_side"] = "left_right"
    licence: str
    provenance: str
    format_version: int = FORMAT_VERSION

    @property
    def bins(self) -> int:
        """The STFT bins from 0 Hz up to the bandwidth, which a network on magnitudes takes and gives."""
        if self.stft is None:
            raise ConfigError(f"'{self.name}' works on waveforms and has no bins")
        return round(self.bandwidth_hz * self.stft.n_fft / self.sample_rate)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _parse_the_config_of_the_family(cls, data: Any) -> Any:
        from jaxsep.models import FAMILIES  # the families build on this module's neighbours

        if not isinstance(data, Mapping):
            return data
        version = data.get("format_version", FORMAT_VERSION)
        if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
            raise ValueError(
                f"format_version {version!r} cannot be read: this jaxsep knows up to {FORMAT_VERSION}; "
                "install a newer jaxsep"
            )
        family, config = data.get("family"), data.get("config")
        if isinstance(family, str) and family not in FAMILIES:
            raise ValueError(f"there is no model family '{family}'.{nearest(family, FAMILIES)}")
        if isinstance(family, str) and isinstance(config, Mapping):
            try:
                parsed = FAMILIES[family].config.parse(config, where=f"the '{family}' config")
            except ConfigError as error:
                raise ValueError(str(error)) from None
            data = {**data, "config": parsed}
        return data

    @pydantic.model_validator(mode="after")
    def _stems_are_distinct_names(self) -> "ModelSpec":
        if len(set(self.stems)) != len(self.stems):
            raise ValueError(f"stems {self.stems} are not distinct")
        for stem in self.stems:
            if not stem or "/" in stem or "\\" in stem or stem in (".", "..") or not stem.isprintable():
                raise ValueError(f"stem name {stem!r} cannot be a file name")
        if "residual" in self.stems:
            raise ValueError("'residual' names the mixture minus the stems, so no stem can have that name")
        return self

    @pydantic.model_validator(mode="after")
    def _the_parts_fit_the_family(self) -> "ModelSpec":
        from jaxsep.models import FAMILIES

        family = FAMILIES.get(self.family)
        if family is None or not isinstance(self.config, family.config):
            raise ValueError(f"config {type(self.config).__name__} is not that of family '{self.family}'")
        n_sources = getattr(self.config, "n_sources", len(self.stems))
        if n_sources != len(self.stems):
            raise ValueError(f"{len(self.stems)} stems are named but the config has {n_sources} sources")
        if self.stereo == "mid_side" and (self.channels != 2 or family.domain == "waveform"):
            raise ValueError("stereo 'mid_side' is for networks on the magnitudes of two channels")
        if family.domain == "waveform":
            return self._checked_on_waveforms()
        if self.stft is None or self.masks is None:
            raise ValueError(f"family '{self.family}' works on magnitudes and needs 'stft' and 'masks'")
        if self.masks.kind == "ratio" and len(self.stems) == 1:
            raise ValueError("the ratio mask of a single source is always one; use masks of kind 'direct'")
        bins = getattr(self.config, "bins", self.bins)
        if self.bins != bins:
            raise ValueError(f"bandwidth_hz (= {self.bandwidth_hz}) is bin {self.bins}, but the config has {bins} bins")
        overlap = self.stft.n_fft - self.stft.hop_length
        if (
            self.chunking.chunk_hop % self.stft.hop_length
            or self.chunking.chunk_length != self.chunking.chunk_hop + overlap
        ):
            raise ValueError(
                "a chunk must hold whole frames: chunk_hop a multiple of hop_length, and chunk_length what they cover"
            )
        if self.chunking.lead != self.stft.n_fft or self.chunking.window != "none":
            raise ValueError(
                "frames start n_fft before the track and fade by themselves: lead = n_fft, window = 'none'"
            )
        return self

    def _checked_on_waveforms(self) -> "ModelSpec":
        if self.stft is not None or self.masks is not None:
            raise ValueError(f"family '{self.family}' works on waveforms and has no 'stft' or 'masks'")
        channels = getattr(self.config, "channels", self.channels)
        if channels != self.channels:
            raise ValueError(f"channels (= {self.channels}) are not the config's (= {channels})")
        estimated = self.chunking.chunk_length
        if (output_length := getattr(self.config, "output_length", None)) is not None:
            try:
                estimated = output_length(self.chunking.chunk_length)
            except ConfigError as error:
                raise ValueError(f"chunk_length: {str(error).removesuffix('.')}") from None
        if estimated != self.chunking.estimate_length:
            raise ValueError(
                f"of a chunk of {self.chunking.chunk_length} samples the network estimates {estimated}, and with this "
                f"context (= {self.chunking.context}) it would have to be {self.chunking.estimate_length}"
            )
        return self
