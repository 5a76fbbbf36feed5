"""EnsembleSpec: several models whose estimates are averaged, each source with weights of its own (a bag of models)."""

from collections.abc import Sequence
from typing import TypeAlias

import pydantic

from jaxsep.config import Config
from jaxsep.errors import ConfigError, nearest
from jaxsep.models.format_versions import check_version
from jaxsep.models.spec import FORMAT_VERSION, ModelSpec


class EnsembleSpec(Config):
    """All that is needed to run several sets of weights as one model.

    The estimate of a source is the mean of its members' estimates, weighted and divided by the sum of the weights.

    Attributes:
        name: Name of the ensemble in the catalogue and in reports.
        members: Specs of the members, with the same stems, sample rate and channels.
        weights: Weight of each member for each source, `weights[member][source]`.
        licence: Licence of the weights.
        provenance: Where the weights come from.
        format_version: Version of this description; a reader reads its own and all older ones.
    """

    name: str
    members: tuple[ModelSpec, ...] = pydantic.Field(min_length=1)
    weights: tuple[tuple[pydantic.NonNegativeFloat, ...], ...]
    licence: str
    provenance: str
    format_version: int = FORMAT_VERSION

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the sources, in the order of the output."""
        return self.members[0].stems

    @property
    def sample_rate(self) -> int:
        """Sample rate of the audio that it takes and gives, in Hz."""
        return self.members[0].sample_rate

    @property
    def channels(self) -> int:
        """Number of channels of that audio."""
        return self.members[0].channels

    @property
    def bandwidth_hz(self) -> float:
        """Frequency in Hz up to which some member estimates stems."""
        return max(member.bandwidth_hz for member in self.members)

    def needed(self, stems: Sequence[str] | None) -> tuple[int, ...]:
        """Returns the numbers of the members that have a weight for one of the stems, or for any."""
        sources = [source for source, stem in enumerate(self.stems) if stems is None or stem in stems]
        return tuple(
            number for number, weights in enumerate(self.weights) if any(weights[source] > 0 for source in sources)
        )

    @pydantic.field_validator("format_version")
    @classmethod
    def _the_version_is_known(cls, version: int) -> int:
        check_version(version, newest=FORMAT_VERSION, oldest=2)  # the first that had ensembles
        return version

    @pydantic.model_validator(mode="after")
    def _members_are_alike_and_every_source_has_a_weight(self) -> "EnsembleSpec":
        first = self.members[0]
        for member in self.members[1:]:
            for key in ("stems", "sample_rate", "channels"):
                if getattr(member, key) != getattr(first, key):
                    raise ValueError(
                        f"members of an ensemble have the same {key}, and those of '{member.name}' are not those of "
                        f"'{first.name}'"
                    )
        if len(self.weights) != len(self.members) or any(len(row) != len(first.stems) for row in self.weights):
            raise ValueError(
                f"weights are a row for each of the {len(self.members)} members with one number for each of the "
                f"{len(first.stems)} stems"
            )
        for source, stem in enumerate(first.stems):
            if not sum(row[source] for row in self.weights) > 0:
                raise ValueError(f"no member has a weight for '{stem}'")
        return self


# What describes anything that separates.
AnySpec: TypeAlias = ModelSpec | EnsembleSpec


def chosen_stems(spec: AnySpec, stems: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the stems that are asked for; all of the model's, in its order, for None.

    Raises:
        ConfigError: The model has no such stem, none is asked for, or one twice.
    """
    if stems is None:
        return spec.stems
    for stem in stems:
        if stem not in spec.stems:
            raise ConfigError(f"'{spec.name}' has no stem '{stem}'.{nearest(stem, spec.stems)}")
    if not stems or len(set(stems)) != len(stems):
        raise ConfigError(f"The stems asked for must be one or more different names, not {tuple(stems)}.")
    return tuple(stems)
