"""ModelSpec: everything that is needed, beside the arrays, to run a set of weights. No arrays, no files."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeGuard, Unpack

import flax.linen as nn
import pydantic
from jax.typing import DTypeLike

from jaxsep.config import Config
from jaxsep.dsp.cuts import Chunking, Cuts
from jaxsep.errors import ConfigError, JaxsepError
from jaxsep.models.domain import Domain
from jaxsep.models.family import FamilyConfig, SpectralConfig
from jaxsep.models.format_versions import check_version, from_version_1, is_version_1
from jaxsep.models.procedure import Procedure, ProcedureChanges
from jaxsep.models.rematerialise import layers_rematerialised

FORMAT_VERSION = 2
_DOMAIN: pydantic.TypeAdapter[Domain] = pydantic.TypeAdapter(Domain)


class ModelSpec(Config):
    """All that is needed to run a set of weights.

    Attributes:
        name: Name of the model in the catalogue and in reports.
        family: Name of the model family, a key of `jaxsep.models.FAMILIES` or one that was registered.
        config: Config of the network, of the family's own class.
        domain: What the network maps, waveforms or magnitudes, and what leads there and back. Its bins are those of
            the config where nothing else is said.
        procedure: How a track is taken through the network.
        stems: Names of the sources, in the order of the model's output.
        sample_rate: Sample rate of the audio that the model takes and gives, in Hz.
        channels: Number of channels of that audio.
        licence: Licence of the weights.
        provenance: Where the weights come from.
        format_version: Version of this description; a reader reads its own and all older ones.
    """

    name: str
    family: str
    config: pydantic.SerializeAsAny[Config]
    domain: Domain
    procedure: Procedure
    stems: tuple[str, ...] = pydantic.Field(min_length=1)
    sample_rate: int = pydantic.Field(gt=0)
    channels: int = pydantic.Field(gt=0)
    licence: str
    provenance: str
    format_version: int = FORMAT_VERSION

    @property
    def chunk_hop(self) -> int:
        """Samples of a track that each further chunk adds."""
        first, second = (self.cuts.cut(index, None) for index in (0, 1))
        return second.start - first.start

    @property
    def bandwidth_hz(self) -> float:
        """Frequency in Hz up to which stems are estimated; above it they are what the mask extension makes of them."""
        return self.domain.bandwidth_hz(self.sample_rate)

    @property
    def chunk_length(self) -> int:
        """Samples that the network sees at a time; also of a training example, unless a recipe says otherwise."""
        return self.procedure.cutting.chunk_length

    @property
    def network_config(self) -> FamilyConfig:
        """The config, as what all families state."""
        assert isinstance(self.config, FamilyConfig)
        return self.config

    @property
    def cuts(self) -> Cuts:
        """How tracks are cut."""
        return self.domain.cuts(self.procedure.cutting, self.network_config)

    def layers_rematerialised(self) -> AbstractContextManager[Any]:
        """Returns a context in which layers of the network are computed again in the backward pass, for less memory.

        Raises:
            ConfigError: The family does not say what its layers are.
        """
        from jaxsep.models import find_family

        layers = find_family(self.family).layers
        if not layers:
            raise ConfigError(
                f"The family '{self.family}' does not say which layers could be computed again in the backward pass; "
                "leave rematerialise out."
            )
        return layers_rematerialised(layers)

    def network(self, *, dtype: DTypeLike | None = None, axis_name: str | None = None) -> nn.Module:
        """Returns the linen module.

        Args:
            dtype: What it computes in; None for float32.
            axis_name: Pmapped axis over which batch statistics are averaged; None for no averaging.

        Raises:
            ConfigError: It computes in float32 alone, and another type is asked for.
        """
        from jaxsep.models import find_family

        return find_family(self.family).build(self.config, dtype=dtype, axis_name=axis_name)

    def input_shape(self, length: int | None = None) -> tuple[int, ...]:
        """Returns the shape, but for the batch, of what the network sees of so many samples, or of a chunk."""
        return self.domain.input_shape(self.chunk_length if length is None else length, self.channels)

    def output_shape(self, length: int | None = None) -> tuple[int, ...]:
        """Returns the shape, but for batch and source, of what it gives."""
        return self.domain.output_shape(self.chunk_length if length is None else length, self.network_config)

    def check_length(self, length: int) -> None:
        """Refuses training examples of so many samples, where the network does not take them.

        Raises:
            ConfigError: It does not.
        """
        self.domain.check_length(length, self.network_config)

    def with_procedure(
        self,
        *,
        chunk_seconds: float | int | None = None,
        overlap: float | int | None = None,
        **changes: Unpack[ProcedureChanges],
    ) -> "ModelSpec":
        """Returns the same model with another procedure.

        Args:
            chunk_seconds: How much is estimated of a chunk, in seconds; rounded up to what the network takes.
            overlap: Shared fraction of neighbouring chunks below 1, or, from 2 on, how many chunks see each sample.
            **changes: Other values of `Procedure`.

        Raises:
            ConfigError: The network does not take such chunks, or hears the whole track.
        """
        procedure = self.procedure
        if chunk_seconds is not None or overlap is not None:
            if not isinstance(procedure.cutting, Chunking):
                raise ConfigError(f"'{self.name}' hears the whole track at once; leave chunk and overlap out.")
            if chunk_seconds is not None and not 0 < chunk_seconds < float("inf"):
                raise ConfigError(f"A chunk of {chunk_seconds:g} s was asked for; give a length above 0.")
            chunk = None if chunk_seconds is None else max(int(chunk_seconds * self.sample_rate), 1)
            cutting = self.domain.recut(procedure.cutting, self.network_config, chunk=chunk, overlap=overlap)
            changes = {**changes, "cutting": cutting}
        if not changes:
            return self
        parsed = Procedure.parse({**dict(procedure), **changes}, where="the procedure that was asked for")
        return ModelSpec.parse({**dict(self), "procedure": parsed}, where=f"'{self.name}' with another procedure")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _read_older_versions_and_fill_in_what_follows(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        check_version(data.get("format_version", FORMAT_VERSION), newest=FORMAT_VERSION)
        if is_version_1(data):
            data = from_version_1(data)
        try:
            config = _config_of(data.get("family"), data.get("config"))
        except ConfigError:
            # The fields tell it, beside all else that is wrong; what follows from it is not missing.
            return _with_placeholders(data)
        data = {**data, "config": config} if "config" in data else data
        domain = data.get("domain")
        if _is_without_bins(domain) and isinstance(config, SpectralConfig):
            data = {**data, "domain": {**domain, "bins": config.bins}}
        return _with_all_lengths(data)

    @pydantic.field_validator("family")
    @classmethod
    def _family_is_known(cls, family: str) -> str:
        from jaxsep.models import find_family  # the families build on this module's neighbours

        try:
            find_family(family)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return family

    @pydantic.field_validator("config", mode="before")
    @classmethod
    def _config_is_its_familys(cls, config: Any, info: Any) -> Any:
        if "family" not in info.data:  # which is told, and whose keys nobody knows
            return Config()
        try:
            return _config_of(info.data["family"], config)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @pydantic.field_validator("stems")
    @classmethod
    def _stems_are_distinct_names(cls, stems: tuple[str, ...]) -> tuple[str, ...]:
        check_stems(stems)
        return stems

    @pydantic.model_validator(mode="after")
    def _the_parts_fit_the_family(self) -> "ModelSpec":
        if found := list(self._misfits()):
            raise ValueError("; ".join(found))
        return self

    def _misfits(self) -> Iterator[str]:
        """Yields what does not fit together, a clause each."""
        from jaxsep.models import find_family

        try:
            family = find_family(self.family)
        except ConfigError as error:
            yield str(error)
            return
        if not isinstance(self.config, family.config):
            yield f"config {type(self.config).__name__} is not that of family '{self.family}'"
            return
        if not isinstance(self.config, FamilyConfig):
            yield (
                f"config {type(self.config).__name__} does not state what `jaxsep.models.FamilyConfig` asks for; "
                "derive it from `jaxsep.models.NetworkConfig`"
            )
            return
        if self.config.n_sources != len(self.stems):
            yield f"{len(self.stems)} stems are named but the config has {self.config.n_sources} sources"
        if self.config.channels != self.channels:
            yield f"channels (= {self.channels}) are not the config's (= {self.config.channels})"
        if family.domain != self.domain.kind:
            yield f"family '{self.family}' works on {family.domain}s, and the domain is '{self.domain.kind}'"
            return
        try:
            self.domain.check(self.config, len(self.stems), self.procedure.cutting)
            if self.procedure.wiener is not None:
                self.domain.magnitudes("a Wiener filter")
        except JaxsepError as error:
            yield str(error).removesuffix(".")


def _config_of(family: Any, config: Any) -> Any:
    """Returns a config as its family's class; as it is where one of both is no such thing, which validation tells.

    Raises:
        ConfigError: There is no such family, or the config is none of it.
    """
    from jaxsep.models import find_family

    if not isinstance(family, str) or not isinstance(config, Mapping):
        return config
    return find_family(family).config.parse(config, where=f"the '{family}' config")


def _is_without_bins(domain: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(domain, Mapping) and domain.get("kind") == "magnitude" and "bins" not in domain


def _with_placeholders(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fills in what would follow from a config that is wrong, so that it is not told as missing."""
    domain, procedure = data.get("domain"), data.get("procedure")
    if _is_without_bins(domain):
        data = {**data, "domain": {**domain, "bins": 1}}
    if not isinstance(procedure, Mapping) or not isinstance(procedure.get("cutting"), Mapping):
        return data
    cutting = procedure["cutting"]
    if cutting.get("kind", "chunks") != "chunks":
        return data
    return {**data, "procedure": {**procedure, "cutting": _of_one_length(cutting)}}


def _of_one_length(cutting: Mapping[str, Any]) -> dict[str, Any]:
    length = cutting.get("chunk_length", cutting.get("estimate_length"))
    return {"chunk_length": length, "chunk_hop": length, **cutting}


def _with_all_lengths(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fills in the lengths of chunks that follow from others; leaves what is wrong to be told later."""
    config, domain, procedure = (data.get(key) for key in ("config", "domain", "procedure"))
    cutting = procedure.get("cutting") if isinstance(procedure, Mapping) else None
    if not isinstance(config, FamilyConfig) or not isinstance(procedure, Mapping) or not isinstance(cutting, Mapping):
        return data
    if cutting.get("kind", "chunks") != "chunks":
        return data
    try:
        completed = _DOMAIN.validate_python(domain).complete(cutting, config)
    except (pydantic.ValidationError, ConfigError):
        completed = _of_one_length(cutting)
    return {**data, "procedure": {**procedure, "cutting": completed}}


def check_stems(stems: tuple[str, ...]) -> None:
    """Refuses stems that cannot name files beside each other.

    Raises:
        ValueError: One clause.
    """
    if len(set(stems)) != len(stems):
        raise ValueError(f"stems {stems} are not distinct")
    for stem in stems:
        if not stem or "/" in stem or "\\" in stem or stem in (".", "..") or not stem.isprintable():
            raise ValueError(f"stem name {stem!r} cannot be a file name")
    if "residual" in stems:
        raise ValueError("'residual' names the mixture minus the stems, so no stem can have that name")
