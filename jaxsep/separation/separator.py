"""Separator: a model, its weights and its compiled functions; arrays in, arrays out, or blocks in, blocks out.

Files are in stream.py, what is computed in estimate.py and passes.py.
"""

import copy
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsInt, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxsep.audio import resample
from jaxsep.dsp.cuts import WholeTrack
from jaxsep.errors import AudioError, JaxsepError, SeparationAborted, SeparationError
from jaxsep.models import find_family
from jaxsep.models.ensemble import chosen_stems
from jaxsep.models.family import in_precision
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.batches import BatchRunner, Program, Slot
from jaxsep.separation.estimate import delays, describe_not_finite, estimate_chunks, estimate_sources
from jaxsep.separation.lockstep import Lane, lockstep
from jaxsep.separation.mixtures import Group, Mixture, MixtureWindow, ProgressCallback, Streamed
from jaxsep.separation.options import SeparationOptions, SeparatorOptions
from jaxsep.separation.passes import READ_AHEAD, MagnitudePasses
from jaxsep.separation.pickling import Given, MadeOfAModel
from jaxsep.separation.threads import ahead
from jaxsep.typing import HostSourceWaveform, HostWaveform, SourceWaveform, Variables, Waveform

if TYPE_CHECKING:
    from jaxsep.separation.models import AnySeparator

logger = logging.getLogger(__name__)

# More channels than this, and more than samples, are surely samples. Clips of a few samples may be wider than long.
_MOST_CHANNELS = 64


@dataclass(frozen=True)
class Separation:
    """Separated stems.

    Attributes:
        stems: Waveforms (time, channel) by name.
        sample_rate: Sample rate of the waveforms in Hz.
    """

    stems: dict[str, HostWaveform]
    sample_rate: int


@dataclass(frozen=True)
class Model:
    """A network with its weights, ready for a `Separator`, or to estimate sources as a pure function.

    Attributes:
        module: The linen module.
        variables: Its parameters and statistics.
        spec: What the weights belong to.
        sha256: Of the weights; empty while they are in training.
    """

    module: nn.Module
    variables: Variables
    spec: ModelSpec
    sha256: str

    def estimate(self, variables: Variables, mixture: Waveform, *, seed: int = 0) -> SourceWaveform:
        """Separates whole waveforms in one piece: `estimate_sources` of this network and its procedure.

        A pure function of arrays, so that `jax.jit(model.estimate)(model.variables, mixture)` and `jax.grad` work.

        Args:
            variables: The model's variables, or others of their shapes.
            mixture: Waveforms (*batch, time, channel) at the model's sample rate, with the model's channels.
            seed: What time shifts are drawn from, where the procedure has any; static under `jax.jit`.

        Returns:
            Waveforms (*batch, source, time, channel), sources in the order of `spec.stems`.

        Raises:
            SeparationError: If the mixture does not have the model's channels.
        """
        return estimate_sources(variables, mixture, model=self.module, spec=self.spec, seed=seed)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is pickled: weights on the host, so that a process that unpickles them needs no device."""
        return {**self.__dict__, "variables": jax.tree.map(np.asarray, self.variables)}


class Separator(MadeOfAModel):
    """Separates mixtures with one model.

    Functions are compiled once, for one shape: chunks of the model's own length. Tracks of any length are cut into such
    chunks, so that memory is a matter of the model and the batch size alone.

    It can be pickled to another process, which compiles its own functions for the first device of the same platform, or
    for JAX's default device.

    Attributes:
        model: The network with its weights, and with the procedure that the options ask for.
        stems: Names of the stems that are returned, in this order.
        options: How tracks are separated.
        device: Device that it runs on.
    """

    def __init__(self, model: Model, **options: Unpack[SeparatorOptions]) -> None:
        """Places the weights on the device.

        Args:
            model: From `load_model`.
            **options: See `SeparatorOptions`.

        Raises:
            ConfigError: If a stem is not one of the model's, or the model cannot be run as the options say.
            SeparationError: If a network on waveforms is to be filtered.
        """
        self._given = Given.of(model.spec, options)
        stems, device, batch_size = options.get("stems"), options.get("device"), options.get("batch_size")
        self.options = SeparationOptions.of(options)
        spec = self.options.applied_to(model.spec)
        self.stems = chosen_stems(spec, stems)
        self.device = jax.devices()[0] if device is None else device
        # The weights are kept where they are used, and not on the host as well.
        self.model = replace(model, variables=jax.device_put(model.variables, self.device), spec=spec)
        self._sources = tuple(spec.stems.index(stem) for stem in self.stems)
        self._slot = options.get("slot") or Slot()
        self._member = options.get("member", 0)
        is_builtin = find_family(spec.family).is_builtin
        self._store = options.get("programs") if is_builtin else None
        self._shared = options.get("shared_programs", {})
        self._lowered = self.options.precision != "float32"
        network = in_precision(model.module, jnp.dtype(self.options.precision)) if self._lowered else model.module
        runner = partial(BatchRunner, device=self.device, arrays=_arrays_of, is_usual=self._is_usual, slot=self._slot)
        self._runner = runner(self._chunk_program(network), batch_size=batch_size)
        self._float32_runner = runner(self._chunk_program(model.module), batch_size=1)
        self._passes = None
        if spec.procedure.wiener is not None or isinstance(spec.procedure.cutting, WholeTrack):
            self._passes = MagnitudePasses(
                network,
                spec,
                spec.procedure.wiener,
                self._sources,
                float32_network=model.module if self._lowered else None,
                batch_size=batch_size,
                device=self.device,
                slot=self._slot,
                program=self._program,
            )

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Unpack[SeparatorOptions]) -> "AnySeparator":
        """Loads a model and makes a Separator of it; of an ensemble, an `EnsembleSeparator`.

        Args:
            name_or_path: As for `load_model`.
            **options: See `SeparatorOptions`.
        """
        from jaxsep.separation.models import load_separator

        return load_separator(name_or_path, **options)

    def with_variables(self, variables: Variables) -> "Separator":
        """Returns a Separator of the same model with other weights; it shares what this one has compiled.

        Args:
            variables: In the shapes and types of the model's own.
        """
        model = replace(self.model, variables=jax.device_put(variables, self.device), sha256="")
        other = copy.copy(self)
        other.model = model
        return other

    @property
    def passes(self) -> int:
        """How often `stream` goes over the mixture's chunks; a filter may need statistics of the whole track first."""
        return 1 if self._passes is None else self._passes.passes

    @property
    def compile_seconds(self) -> float:
        """Time spent so far on tracing and compiling, or on reading what was compiled before."""
        return sum(program.compile_seconds for program in self._shared.values())

    @property
    def wait_seconds(self) -> float:
        """Time spent so far waiting for the device."""
        runners = [self._runner, self._float32_runner, *(self._passes.runners if self._passes else [])]
        return sum(runner.wait_seconds for runner in runners)

    @property
    def batch_size(self) -> int | None:
        """Chunks in one call, as it is now; None before the first call has chosen it."""
        return (self._passes.last if self._passes else self._runner).batch_size

    def separate(
        self, mixture: ArrayLike, sample_rate: SupportsInt, *, progress: ProgressCallback | None = None
    ) -> Separation:
        """Separates a waveform.

        Args:
            mixture: Floating-point samples (time, channel), full scale at 1: anything that `np.asarray` takes. Where
                channels are not as many as the model's, they are separated in groups; see
                `jaxsep.separation.window.ChannelGroups`.
            sample_rate: Sample rate of the mixture in Hz: a whole number of any type, such as 44100 or 44100.0.
            progress: Called after every chunk.

        Returns:
            Stems with the mixture's sample rate, channels and number of samples.

        Raises:
            AudioError: If the mixture is empty, not finite or no such array; if it has more channels than samples and
                more than 64, and so is surely (channel, time); or if the sample rate is no whole number above 0.
            SeparationAborted: If `progress` returned False.
        """
        return separate_waveform(self, mixture, sample_rate, progress)

    def stream(
        self,
        mixture: Callable[[], Iterator[HostWaveform]],
        *,
        length: int | None = None,
        progress: ProgressCallback | None = None,
        spool_directory: Path | None = None,
    ) -> Iterator[HostSourceWaveform]:
        """Separates blocks in a moving window.

        Args:
            mixture: Opens the mixture at its beginning: blocks (time, channel) of any length, at the model's sample
                rate. Called once for every pass, and read in threads.
            length: Number of samples of the mixture, where known, for the progress.
            progress: Called after every chunk.
            spool_directory: Directory of temporary files that wait for a further pass; None for the system's place.

        Yields:
            Blocks (source, time, channel) in the order of `stems`, altogether as long as the mixture.

        Raises:
            SeparationError: If a chunk does not come out finite.
            SeparationAborted: If `progress` returned False.
        """
        yield from blocks_of(self.stream_many([Mixture(mixture, length, progress, spool_directory)]))

    def stream_many(self, mixtures: Iterable[Mixture]) -> Generator[Streamed, None, None]:
        """Separates mixtures one after another, so that the device never waits for the next one to be opened.

        Chunks of several mixtures share a batch, but where one mixture takes several passes or time shifts. An error
        of jaxsep's ends the mixture that it belongs to and no other.

        Args:
            mixtures: Asked for the next one when all of the one before has been read; asked and read in a thread.

        Yields:
            Blocks of each mixture in order, and then how it ended.

        Raises:
            SeparationAborted: If a progress callback returned False.
        """
        if not self.model.spec.procedure.shifts:
            yield from self._streamed(mixtures)
            return
        lanes = self.lanes()
        for mixture in mixtures:
            yield from lockstep(mixture, lanes, np.ones((len(lanes), len(self.stems))))

    def lanes(self) -> list[Lane]:
        """Returns what has to run side by side, and to be averaged: one separation for each time shift."""
        shifts = self.model.spec.procedure.shifts
        drawn = delays(shifts, self.model.spec.sample_rate, self.options.seed, self._member) if shifts else (0,)
        return [partial(self._streamed, delay=delay) for delay in drawn]

    def _streamed(self, mixtures: Iterable[Mixture], delay: int = 0) -> Generator[Streamed, None, None]:
        if self._passes is None:
            yield from self._chunked(mixtures, delay)
            return
        for mixture in mixtures:
            window = MixtureWindow(mixture, self.model.spec, passes=self._passes.passes, delay=delay)
            try:
                for cut, groups in self._passes.run(self.model.variables, window):
                    for waveforms in groups:
                        for block in window.add(cut, waveforms):
                            yield Streamed(mixture, block)
            except SeparationAborted:
                raise
            except (JaxsepError, OSError) as error:  # OSError: the disk is full of what waits for the next pass
                window.error = error
            yield from window.end()

    def _chunked(self, mixtures: Iterable[Mixture], delay: int) -> Iterator[Streamed]:
        spec = self.model.spec
        begun: deque[MixtureWindow] = deque()

        def groups() -> Iterator[Group]:
            for mixture in mixtures:
                window = MixtureWindow(mixture, spec, delay=delay)
                begun.append(window)
                try:
                    for _, chunk in window.chunks():
                        for samples in window.groups.split(chunk.samples):
                            yield Group(window, chunk.cut, samples)
                        if window.error is not None:
                            break
                except (JaxsepError, OSError) as error:
                    window.error = error

        with closing(ahead(groups(), READ_AHEAD)) as read:
            for group, (waveforms, finite) in self._runner.run(self.model.variables, read):
                while begun[0] is not group.window:
                    yield from begun.popleft().end()
                window = group.window
                if not finite and self._lowered:
                    logger.warning("a chunk is not finite in the lower precision: computing it in float32")
                    ((_, (waveforms, finite)),) = self._float32_runner.run(self.model.variables, [group])
                if window.error is None and not finite:
                    window.error = SeparationError(describe_not_finite(group.cut, spec))
                if window.error is None:
                    for block in window.add(group.cut, waveforms):
                        yield Streamed(window.mixture, block)
        while begun:
            yield from begun.popleft().end()

    def _is_usual(self, group: Group) -> bool:
        return len(group.samples) == self.model.spec.chunk_length

    def _chunk_program(self, network: nn.Module) -> Program:
        domain = self.model.spec.domain
        function = partial(estimate_chunks, model=network, domain=domain, sources=self._sources)
        return self._program(function, f"chunks {network!r} {domain!r} {self._sources}")

    def _program(self, function: Callable[..., Any], name: str) -> Program:
        """Returns the program of a function; members of an ensemble that have the same one share it."""
        # Networks of two families may look alike, but for what they compute.
        name = f"{self.model.spec.family} {name}"
        if name not in self._shared:
            self._shared[name] = Program(function, device=self.device, programs=self._store, name=name)
        return self._shared[name]


def separate_waveform(
    separator: Any, mixture: ArrayLike, sample_rate: SupportsInt, progress: ProgressCallback | None
) -> Separation:
    """Separates a waveform with anything that streams; see `Separator.separate`."""
    spec = separator.model.spec
    array, rate = _checked_mixture(mixture), _checked_rate(sample_rate)
    length = len(array)
    at_model_rate = resample(array, rate, spec.sample_rate)
    blocks = list(separator.stream(lambda: iter([at_model_rate]), length=len(at_model_rate), progress=progress))
    estimates = np.concatenate(blocks, axis=1)
    stems = {}
    for stem, estimate in zip(separator.stems, estimates, strict=True):
        back = resample(estimate, spec.sample_rate, rate)[:length]
        # A round trip between two rates can lose a sample.
        stems[stem] = np.pad(back, [(0, length - len(back)), (0, 0)])
    return Separation(stems, rate)


def blocks_of(streamed: Iterable[Streamed]) -> Iterator[HostSourceWaveform]:
    """Yields the blocks of one mixture; raises what it ended with."""
    for each in streamed:
        if each.error is not None:
            raise each.error
        if each.estimates is not None:
            yield each.estimates


def _checked_mixture(mixture: Any) -> HostWaveform:
    """Returns a mixture in float32, once it is known to be one."""
    try:
        array = np.asarray(mixture)
    except (TypeError, ValueError) as error:
        raise AudioError(f"The mixture is no array (time, channel): {error}.") from None
    if array.ndim != 2 or not jnp.issubdtype(array.dtype, jnp.floating):
        fix = "; give one channel as mixture[:, None]" if array.ndim == 1 else ""
        raise AudioError(
            f"The mixture must be floating point (time, channel) with full scale at 1, "
            f"not {array.dtype} of shape {array.shape}{fix}."
        )
    samples, channels = array.shape
    if channels > max(samples, _MOST_CHANNELS):
        raise AudioError(
            f"The mixture has {samples} samples of {channels} channels; audio is (time, channel), so transpose it."
        )
    with np.errstate(over="ignore"):  # what is too large for float32 is not finite there
        array = array.astype(np.float32, copy=False)
    if array.size == 0 or not np.isfinite(array).all():
        raise AudioError("The mixture must hold one sample or more, all finite.")
    return array


def _checked_rate(sample_rate: Any) -> int:
    """Returns a sample rate as an int, once it is known to be one."""
    number = np.asarray(sample_rate)
    is_number = number.ndim == 0 and number.dtype.kind in "iuf"  # neither truth values nor text
    if not is_number or not np.isfinite(number) or number < 1 or number % 1 != 0:
        raise AudioError(f"The sample rate is {sample_rate!r}; give a whole number of Hz, such as 44100.")
    return int(number)


def _arrays_of(group: Group) -> Any:
    return group.samples, group.cut.weights
