"""Separator: a model, its weights and its compiled functions; arrays in, arrays out, or blocks in, blocks out.

Files are in stream.py, what is computed in estimate.py and filtered.py.
"""

import copy
import itertools
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxsep.audio import resample
from jaxsep.dsp.wiener import WienerConfig
from jaxsep.errors import AudioError, ConfigError, JaxsepError, SeparationAborted, SeparationError, nearest
from jaxsep.models import FAMILIES
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.batches import BatchRunner
from jaxsep.separation.estimate import describe_not_finite, estimate_chunks
from jaxsep.separation.filtered import FilteredChunks
from jaxsep.separation.mixtures import Group, Mixture, MixtureWindow, ProgressCallback, Streamed
from jaxsep.separation.programs import ProgramStore
from jaxsep.separation.threads import ahead
from jaxsep.separation.window import Chunk
from jaxsep.typing import HostSourceWaveform, HostWaveform, Variables
from jaxsep.weights.pretrained import load_pretrained

logger = logging.getLogger(__name__)


# Chunks that are read ahead of the device: one to be ready, and one in the making.
_READ_AHEAD = 2


@dataclass(frozen=True)
class Separation:
    """Separated stems.

    Attributes:
        stems: Waveforms (time, channel) by name.
        sample_rate: Of the waveforms, in Hz.
    """

    stems: dict[str, HostWaveform]
    sample_rate: int


@dataclass(frozen=True)
class Model:
    """A network with its weights, ready for `estimate_sources`.

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


def load_model(name_or_path: str | Path) -> Model:
    """Loads a model by its name in the catalogue, or from a checkpoint of jaxsep's.

    Args:
        name_or_path: A name such as 'spleeter-2stems', a .safetensors file or an Orbax directory.

    Raises:
        CheckpointError: If there is no such model, or its file is damaged or does not match its description.
    """
    checkpoint = load_pretrained(name_or_path)
    module = FAMILIES[checkpoint.spec.family].module(checkpoint.spec.config)
    return Model(module, checkpoint.variables, checkpoint.spec, checkpoint.sha256)


class Separator:
    """Separates mixtures with one model.

    Functions are compiled once, for one shape: chunks of the model's own length. Tracks of any length are cut into such
    chunks, so that memory is a matter of the model and the batch size alone.

    Attributes:
        model: The network with its weights.
        stems: The stems that are returned, in this order.
        device: Where it runs.
    """

    def __init__(
        self,
        model: Model,
        *,
        stems: Sequence[str] | None = None,
        wiener: WienerConfig | None = None,
        device: jax.Device | None = None,
        batch_size: int | None = None,
        compute_dtype: Any = None,
        programs: ProgramStore | None = None,
    ) -> None:
        """Places the weights on the device.

        Args:
            model: From `load_model`.
            stems: Which stems to return; None for all.
            wiener: Estimate by the multichannel Wiener filter instead of ratio masks; networks on magnitudes only.
            device: Where to run; None for JAX's default.
            batch_size: Chunks in one call; None for what is best on the device.
            compute_dtype: What the network computes in; None for float32. In a lower one, a chunk that does not come
                out finite is computed again in float32.
            programs: Where compiled programs are kept for other processes; None keeps none. For networks of jaxsep's
                families alone, since a program is made anew where jaxsep's source has changed and no other's.

        Raises:
            ConfigError: If a stem is not one of the model's.
        """
        spec = model.spec
        for stem in stems or ():
            if stem not in spec.stems:
                raise ConfigError(f"'{spec.name}' has no stem '{stem}'.{nearest(stem, spec.stems)}")
        if stems is not None and (not stems or len(set(stems)) != len(stems)):
            raise ConfigError(f"The stems asked for must be one or more different names, not {tuple(stems)}.")
        self.device = jax.devices()[0] if device is None else device
        # The weights are kept where they are used, and not on the host as well.
        self.model = replace(model, variables=jax.device_put(model.variables, self.device))
        self.stems = spec.stems if stems is None else tuple(stems)
        self._sources = tuple(spec.stems.index(stem) for stem in self.stems)
        self._lowered = compute_dtype is not None and jnp.dtype(compute_dtype).itemsize < 4
        network = model.module.clone(dtype=compute_dtype) if compute_dtype is not None else model.module
        runner = partial(BatchRunner, device=self.device, arrays=_chunk_of, programs=programs)
        self._runner = runner(self._program(network), batch_size=batch_size, name=self._describe(network))
        self._float32_runner = runner(self._program(model.module), batch_size=1, name=self._describe(model.module))
        self._filter = None
        if wiener is not None:
            self._filter = FilteredChunks(
                network,
                spec,
                wiener,
                self._sources,
                float32_network=model.module if self._lowered else None,
                device=self.device,
                batch_size=batch_size,
                programs=programs,
            )

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> "Separator":
        """Loads a model and makes a Separator of it.

        Args:
            name_or_path: As for `load_model`.
            **options: As for the constructor.
        """
        return cls(load_model(name_or_path), **options)

    def with_variables(self, variables: Variables) -> "Separator":
        """Returns a Separator of the same model with other weights; it shares what this one has compiled.

        Args:
            variables: In the shapes and types of the model's own.
        """
        other = copy.copy(self)
        other.model = replace(self.model, variables=jax.device_put(variables, self.device), sha256="")
        return other

    @property
    def passes(self) -> int:
        """How often `stream` reads the mixture: the Wiener filter needs statistics of the whole track first."""
        return 1 if self._filter is None else self._filter.passes

    @property
    def compile_seconds(self) -> float:
        """Spent so far on tracing and compiling, or on reading what was compiled before."""
        return sum(runner.compile_seconds for runner in self._runners())

    @property
    def wait_seconds(self) -> float:
        """Spent so far waiting for the device."""
        return sum(runner.wait_seconds for runner in self._runners())

    @property
    def batch_size(self) -> int | None:
        """Chunks in one call, as it is now; None before the first call has chosen it."""
        return (self._filter.runners[-1] if self._filter else self._runner).batch_size

    def separate(
        self, mixture: HostWaveform, sample_rate: int, *, progress: ProgressCallback | None = None
    ) -> Separation:
        """Separates a waveform.

        Args:
            mixture: Samples (time, channel), full scale at 1. Where channels are not as many as the model's, they are
                separated in groups; see `jaxsep.separation.window.ChannelGroups`.
            sample_rate: Of the mixture, in Hz.
            progress: Called after every chunk.

        Returns:
            Stems with the mixture's sample rate, channels and number of samples.

        Raises:
            AudioError: If the mixture is empty or not finite.
            SeparationAborted: If `progress` returned False.
        """
        spec = self.model.spec
        if mixture.ndim != 2 or not np.issubdtype(mixture.dtype, np.floating):
            raise AudioError(
                f"The mixture must be floating point (time, channel) with full scale at 1, "
                f"not {mixture.dtype} of shape {mixture.shape}."
            )
        if mixture.size == 0 or not np.isfinite(mixture).all():
            raise AudioError("The mixture must hold one sample or more, all finite.")
        length = len(mixture)
        at_model_rate = resample(mixture.astype(np.float32, copy=False), sample_rate, spec.sample_rate)
        blocks = list(self.stream(lambda: iter([at_model_rate]), length=len(at_model_rate), progress=progress))
        estimates = np.concatenate(blocks, axis=1)
        stems = {}
        for stem, estimate in zip(self.stems, estimates, strict=True):
            back = resample(estimate, spec.sample_rate, sample_rate)[:length]
            # A round trip between two rates can lose a sample.
            stems[stem] = np.pad(back, [(0, length - len(back)), (0, 0)])
        return Separation(stems, sample_rate)

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
                rate. Called `passes` times, and read in a thread.
            length: Samples of the mixture, where known, for the progress.
            progress: Called after every chunk.
            spool_directory: Where the Wiener filter keeps its temporary file; None for the system's place.

        Yields:
            Blocks (source, time, channel) in the order of `stems`, altogether as long as the mixture.

        Raises:
            SeparationError: If a chunk does not come out finite.
            SeparationAborted: If `progress` returned False.
        """
        mixtures = [Mixture(mixture, length, progress, spool_directory)]
        for streamed in self.stream_many(mixtures):
            if streamed.error is not None:
                raise streamed.error
            if streamed.estimates is not None:
                yield streamed.estimates

    def stream_many(self, mixtures: Iterable[Mixture]) -> Generator[Streamed, None, None]:
        """Separates mixtures one after another, so that the device never waits for the next one to be opened.

        Chunks of several mixtures share a batch. Under the Wiener filter they do not: its passes are those of one
        mixture. An error of jaxsep's ends the mixture that it belongs to and no other.

        Args:
            mixtures: Asked for the next one when all of the one before has been read; asked and read in a thread.

        Yields:
            Blocks of each mixture in order, and then how it ended.

        Raises:
            SeparationAborted: If a progress callback returned False.
        """
        if self._filter is None:
            yield from self._masked(mixtures)
            return
        for mixture in mixtures:
            window = MixtureWindow(mixture, self.model.spec, len(self.stems), self.passes)
            try:
                for block in self._filtered(window, self._filter):
                    yield Streamed(mixture, block)
            except SeparationAborted:
                raise
            except (JaxsepError, OSError) as error:  # OSError: the disk is full of what waits for the next pass
                window.error = error
            yield from window.end()

    def _masked(self, mixtures: Iterable[Mixture]) -> Iterator[Streamed]:
        spec = self.model.spec
        begun: deque[MixtureWindow] = deque()

        def groups() -> Iterator[Group]:
            for mixture in mixtures:
                window = MixtureWindow(mixture, spec, len(self.stems), self.passes)
                begun.append(window)
                try:
                    for chunk in window.chunks():
                        yield from (Group(window, group) for group in window.groups.split(chunk))
                        if window.error is not None:
                            break
                except (JaxsepError, OSError) as error:
                    window.error = error

        with closing(ahead(groups(), _READ_AHEAD)) as read:
            for group, (waveforms, finite) in self._runner.run(self.model.variables, read):
                while begun[0] is not group.window:
                    yield from begun.popleft().end()
                window = group.window
                if not finite and self._lowered:
                    logger.warning("a chunk is not finite in the lower precision: computing it in float32")
                    ((_, (waveforms, finite)),) = self._float32_runner.run(self.model.variables, [group])
                if window.error is None and not finite:
                    window.error = SeparationError(describe_not_finite(window.added, spec))
                if window.error is None:
                    for block in window.add(waveforms):
                        yield Streamed(window.mixture, block)
        while begun:
            yield from begun.popleft().end()

    def _filtered(self, window: MixtureWindow, passes: FilteredChunks) -> Iterator[HostSourceWaveform]:
        with ExitStack() as stack:

            def reopen() -> Iterator[tuple[Chunk, ...]]:
                split = (window.groups.split(chunk) for chunk in window.chunks())
                return stack.enter_context(closing(ahead(split, _READ_AHEAD)))

            # How many groups there are is known when the first chunk is.
            opened = reopen()
            begun = [itertools.chain(list(itertools.islice(opened, 1)), opened)]
            if not window.length:
                return
            for groups in passes.run(
                self.model.variables,
                lambda: begun.pop() if begun else reopen(),
                window.groups.count,
                window.report,
                window.mixture.spool_directory,
            ):
                for waveforms in groups:
                    yield from window.add(waveforms)

    def _program(self, network: nn.Module) -> Callable[[Any, Any], Any]:
        return partial(estimate_chunks, model=network, spec=self.model.spec, sources=self._sources)

    def _describe(self, network: nn.Module) -> str:
        return f"chunks {network!r} {self.model.spec!r} {self._sources}"

    def _runners(self) -> list[BatchRunner]:
        return [self._runner, self._float32_runner, *(self._filter.runners if self._filter else ())]


def _chunk_of(group: Group) -> Chunk:
    return group.chunk
