"""EnsembleSeparator: several models on the same mixtures, side by side, with the interface of a `Separator`."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsInt, Unpack

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxsep.errors import ConfigError
from jaxsep.models.ensemble import EnsembleSpec, chosen_stems
from jaxsep.separation.batches import Program, Slot
from jaxsep.separation.lockstep import Lane, lockstep
from jaxsep.separation.mixtures import Mixture, ProgressCallback, Streamed
from jaxsep.separation.options import SeparationOptions, SeparatorOptions
from jaxsep.separation.pickling import Given, MadeOfAModel
from jaxsep.separation.separator import Model, Separation, Separator, blocks_of, separate_waveform
from jaxsep.typing import HostSourceWaveform, HostWaveform


@dataclass(frozen=True)
class Ensemble:
    """Several models whose estimates are averaged, ready for an `EnsembleSeparator`.

    Attributes:
        members: Members by their numbers in the spec, those that were loaded.
        spec: Specs of all members, and their weights.
        sha256: Hash of all members' hashes.
    """

    members: dict[int, Model]
    spec: EnsembleSpec
    sha256: str


class EnsembleSeparator(MadeOfAModel):
    """Separates mixtures with several models and averages their estimates.

    Members run side by side over each mixture, one batch on the device at a time; members with the same config share
    their compiled programs. Each reads the mixture for itself.

    Attributes:
        model: The ensemble, with the procedures that the options ask for.
        stems: Names of the stems that are returned, in this order.
        options: How tracks are separated.
        device: Device that it runs on.
    """

    def __init__(self, ensemble: Ensemble, **options: Unpack[SeparatorOptions]) -> None:
        """Places the weights of the members that are needed on the device.

        Args:
            ensemble: From `load_model`.
            **options: See `SeparatorOptions`; `member` counts from 0 here.

        Raises:
            ConfigError: If a stem is not one of the ensemble's, a member that is needed was not loaded, or a member
                cannot be run as the options say.
        """
        self._given = Given.of(ensemble.spec, options)
        self.options = SeparationOptions.of(options)
        self.stems = chosen_stems(ensemble.spec, options.get("stems"))
        spec = self.options.applied_to(ensemble.spec, self.stems)
        self.model = Ensemble(ensemble.members, spec, ensemble.sha256)
        self._programs: dict[str, Program] = {}
        slot = Slot()
        self._separators: list[Separator] = []
        self._weights: list[list[float]] = []
        for number in spec.needed(self.stems):
            if number not in ensemble.members:
                raise ConfigError(f"Member {number} of '{spec.name}' was not loaded; load it for all stems.")
            weights = dict(zip(spec.stems, spec.weights[number], strict=True))
            own: SeparatorOptions = {
                **options,
                # The same for all, so that members of the same config have the same program.
                "stems": self.stems,
                "slot": slot,
                "shared_programs": self._programs,
                "member": number,
            }
            self._separators.append(Separator(ensemble.members[number], **own))
            self._weights.append([weights[stem] for stem in self.stems])
        self.device: jax.Device = self._separators[0].device

    @property
    def passes(self) -> int:
        """The most passes that a member takes over a mixture's chunks."""
        return max(separator.passes for separator in self._separators)

    @property
    def compile_seconds(self) -> float:
        """Time spent so far on tracing and compiling, or on reading what was compiled before."""
        return sum(program.compile_seconds for program in self._programs.values())

    @property
    def wait_seconds(self) -> float:
        """Time spent so far waiting for the device."""
        return sum(separator.wait_seconds for separator in self._separators)

    @property
    def batch_size(self) -> int | None:
        """Chunks in one call of the first member; None before the first call has chosen it."""
        return self._separators[0].batch_size

    def separate(
        self, mixture: ArrayLike, sample_rate: SupportsInt, *, progress: ProgressCallback | None = None
    ) -> Separation:
        """Separates a waveform; see `Separator.separate`."""
        return separate_waveform(self, mixture, sample_rate, progress)

    def stream(
        self,
        mixture: Callable[[], Iterator[HostWaveform]],
        *,
        length: int | None = None,
        progress: ProgressCallback | None = None,
        spool_directory: Path | None = None,
    ) -> Iterator[HostSourceWaveform]:
        """Separates blocks in a moving window; see `Separator.stream`."""
        yield from blocks_of(self.stream_many([Mixture(mixture, length, progress, spool_directory)]))

    def stream_many(self, mixtures: Iterable[Mixture]) -> Generator[Streamed, None, None]:
        """Separates mixtures one after another; see `Separator.stream_many`."""
        lanes: list[Lane] = []
        rows: list[Any] = []
        for separator, weights in zip(self._separators, self._weights, strict=True):
            # The shifts of a member share its weight.
            own = separator.lanes()
            lanes += own
            rows += [np.asarray(weights) / len(own)] * len(own)
        for mixture in mixtures:
            yield from lockstep(mixture, lanes, np.stack(rows))
