"""How tracks are separated: the options of the command line, of Python and of evaluations, declared once."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import pydantic

from jaxsep.config import Config
from jaxsep.dsp.wiener import NORBERT, WienerConfig
from jaxsep.errors import ConfigError
from jaxsep.models.ensemble import AnySpec, EnsembleSpec
from jaxsep.models.procedure import ProcedureChanges
from jaxsep.models.spec import ModelSpec

if TYPE_CHECKING:
    import jax

    from jaxsep.separation.batches import Program, Slot
    from jaxsep.separation.programs import ProgramStore

FilterKind = Literal["auto", "none", "wiener"]
Precision = Literal["float32", "bfloat16", "float16"]


class SeparationOptions(Config):
    """How tracks are separated, where that is not as the model was published.

    Attributes:
        chunk_seconds: How much is estimated of a chunk, in seconds; None for what is published.
        overlap: Shared fraction of neighbouring chunks below 1, or, from 2 on, how many chunks see each sample; None
            for what is published.
        shifts: Number of time shifts whose estimates are averaged; None for what is published.
        seed: What the time shifts are drawn from.
        filter: 'auto' for the filter of the published model, if it has one; 'none' for the model's masks; 'wiener' for
            the multichannel Wiener filter, the model's own or norbert's; a `WienerConfig` for a filter of your own.
        wiener_iterations: Iterations of the Wiener filter; None for as many as it has.
        precision: Type that the network computes in. In a lower one, a chunk that does not come out finite is computed
            again in float32.
    """

    chunk_seconds: float | None = pydantic.Field(default=None, gt=0, allow_inf_nan=False)
    overlap: float | None = pydantic.Field(default=None, ge=0, allow_inf_nan=False)
    shifts: int | None = pydantic.Field(default=None, ge=0)
    seed: int = pydantic.Field(default=0, ge=0)
    filter: FilterKind | WienerConfig = "auto"
    wiener_iterations: int | None = pydantic.Field(default=None, ge=0)
    precision: Precision = "float32"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "SeparationOptions":
        """Returns those of a Separator's options that say how tracks are separated.

        Raises:
            ConfigError: A value is not allowed.
        """
        own = {key: value for key, value in options.items() if key in cls.model_fields}
        if unknown := set(options) - set(own) - set(SeparatorOptions.__annotations__):
            raise ConfigError(f"There is no option '{min(unknown)}' of a Separator.")
        return cls.parse(own, where="the options of a Separator")

    @property
    def changed(self) -> dict[str, Any]:
        """The options that are not as the model was published, for reports."""
        return self.model_dump(exclude_defaults=True)

    @overload
    def applied_to(self, spec: ModelSpec, stems: Sequence[str] | None = None) -> ModelSpec: ...
    @overload
    def applied_to(self, spec: EnsembleSpec, stems: Sequence[str] | None = None) -> EnsembleSpec: ...
    @overload
    def applied_to(self, spec: AnySpec, stems: Sequence[str] | None = None) -> AnySpec: ...
    def applied_to(self, spec: AnySpec, stems: Sequence[str] | None = None) -> AnySpec:
        """Returns the model, or the members of an ensemble that are run, with the procedure that is asked for.

        Args:
            spec: What is to be run.
            stems: The stems that are asked for; None for all.

        Raises:
            ConfigError: The options contradict each other, or the model cannot be run so.
            SeparationError: A network on waveforms is to be filtered.
        """
        if isinstance(spec, EnsembleSpec):
            needed = spec.needed(stems)
            members = [self._applied_to(each) if n in needed else each for n, each in enumerate(spec.members)]
            return spec.model_copy(update={"members": tuple(members)})
        return self._applied_to(spec)

    def _applied_to(self, spec: ModelSpec) -> ModelSpec:
        changes: ProcedureChanges = {}
        if self.shifts is not None:
            changes["shifts"] = self.shifts
        wiener = spec.procedure.wiener
        if self.filter == "none":
            wiener = None
        elif self.filter != "auto":
            spec.domain.magnitudes("the Wiener filter")
            wiener = self.filter if isinstance(self.filter, WienerConfig) else wiener or NORBERT
        if self.wiener_iterations is not None:
            if wiener is None:
                raise ConfigError(
                    "Iterations are those of the Wiener filter, and there is none here; ask for it by filter 'wiener'."
                )
            wiener = wiener.model_copy(update={"iterations": self.wiener_iterations})
        if wiener != spec.procedure.wiener:
            changes["wiener"] = wiener
        return spec.with_procedure(chunk_seconds=self.chunk_seconds, overlap=self.overlap, **changes)


class SeparatorOptions(TypedDict, total=False):
    """What a `Separator` takes beside a model: the keys of `SeparationOptions`, and where it runs.

    Attributes:
        stems: Names of the stems to return; None for all.
        device: Device to run on; None for JAX's default.
        batch_size: Chunks in one call; None for what is best on the device.
        programs: Where compiled programs are kept for other processes; None keeps none.
        slot: The device's place for one batch, where several Separators share it.
        shared_programs: Programs by name, where several Separators share them.
        member: Number of the model in an ensemble.
    """

    chunk_seconds: float | None
    overlap: float | None
    shifts: int | None
    seed: int
    filter: FilterKind | WienerConfig
    wiener_iterations: int | None
    precision: Precision
    stems: Sequence[str] | None
    device: "jax.Device | None"
    batch_size: int | None
    programs: "ProgramStore | None"
    slot: "Slot"
    shared_programs: "dict[str, Program]"
    member: int
