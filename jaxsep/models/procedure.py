"""Procedure: how a track is taken through a network: cutting, normalisation, shifts and the model's own filter."""

from typing import Annotated, Literal, TypedDict

import pydantic

from jaxsep.config import Config
from jaxsep.dsp.cuts import Chunking, WholeTrack
from jaxsep.dsp.wiener import WienerConfig

Cutting = Annotated[Chunking | WholeTrack, pydantic.Field(discriminator="kind")]


class Normalise(Config):
    """Says that the network hears the track minus its mean and divided by its standard deviation.

    Both are of the mean of the channels, over the whole track. Estimates are scaled back.

    Attributes:
        ddof: What is taken from the number of samples to get the divisor of the variance: 1 in PyTorch, 0 in numpy.
        eps: Added to the standard deviation.
        floor: A divisor that is not above it is replaced by 1, as for silent tracks.
    """

    ddof: Literal[0, 1] = 1
    eps: float = pydantic.Field(default=0.0, ge=0)
    floor: float = pydantic.Field(default=0.0, ge=0)


class Procedure(Config):
    """How a track is taken through a network, as its authors published it.

    Attributes:
        cutting: Chunks, or the whole track for networks that hear it from end to end.
        normalise: What of the whole track is normalised; null for nothing.
        shifts: Number of time shifts whose estimates are averaged (Demucs's shift trick); 0 for none.
        wiener: The Wiener filter that belongs to the model; null for none.
    """

    cutting: Cutting
    normalise: Normalise | None = None
    shifts: int = pydantic.Field(default=0, ge=0)
    wiener: WienerConfig | None = None

    @property
    def has_only_chunks(self) -> bool:
        """Whether each chunk is separated by itself and once: no passes over the track, no filter, no time shifts."""
        return isinstance(self.cutting, Chunking) and self.wiener is None and not self.shifts

    @pydantic.model_validator(mode="before")
    @classmethod
    def _chunks_are_the_usual_cutting(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(cutting := data.get("cutting"), dict) and "kind" not in cutting:
            return {**data, "cutting": {"kind": "chunks", **cutting}}
        return data

    @pydantic.model_validator(mode="after")
    def _the_filter_gives_the_sources_alone(self) -> "Procedure":
        if self.wiener is not None and self.wiener.residual:
            raise ValueError("a model's Wiener filter gives its stems alone; leave wiener.residual out")
        return self


class ProcedureChanges(TypedDict, total=False):
    """Values of a `Procedure`, under its names, in place of others."""

    cutting: Cutting
    normalise: Normalise | None
    shifts: int
    wiener: WienerConfig | None


# What Demucs 3 and 4 do to every track (demucs/api.py), and what msst does under `inference.normalize`
# (utils/audio_utils.py).
DEMUCS = Normalise(ddof=1, eps=1e-8)
MSST = Normalise(ddof=0, floor=1.1920929e-07)
