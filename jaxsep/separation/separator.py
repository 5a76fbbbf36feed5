"""Separator: a model, its weights and its compiled functions; arrays in, arrays out, or blocks in, blocks out.

Files are in stream.py, what is computed in estimate.py and filtered.py.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxsep.audio import resample
from jaxsep.dsp.wiener import WienerConfig
from jaxsep.errors import AudioError, ConfigError, SeparationAborted, SeparationError, nearest
from jaxsep.models import FAMILIES
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.batches import BatchRunner
from jaxsep.separation.estimate import describe_not_finite, estimate_chunks
from jaxsep.separation.filtered import FilteredChunks
from jaxsep.separation.window import Chunk, ChunkCutter, OverlapAdder, SourceChunk
from jaxsep.typing import HostSourceWaveform, HostWaveform, Variables
from jaxsep.weights.pretrained import load_pretrained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a separation has come.

    Attributes:
        done_seconds: Of the track, separated so far.
        total_seconds: Of the track; None where its length is not known beforehand.
    """

    done_seconds: float
    total_seconds: float | None


# Called after every chunk; the separation stops with `SeparationAborted` when it returns False.
ProgressCallback = Callable[[Progress], bool | None]

# Called with the number of the chunk that is done, and of the passes before this one.
Report = Callable[..., None]


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
        sha256: Of the weights.
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
        self._runner = BatchRunner(self._program(network), device=self.device, batch_size=batch_size)
        self._float32_runner = BatchRunner(self._program(model.module), device=self.device, batch_size=1)
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
            )

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> "Separator":
        """Loads a model and makes a Separator of it.

        Args:
            name_or_path: As for `load_model`.
            **options: As for the constructor.
        """
        return cls(load_model(name_or_path), **options)

    @property
    def passes(self) -> int:
        """How often `stream` reads the mixture: the Wiener filter needs statistics of the whole track first."""
        return 1 if self._filter is None else self._filter.passes

    @property
    def compile_seconds(self) -> float:
        """Spent so far on tracing and compiling, or on reading the compilation cache."""
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
            mixture: Samples (time, channel), full scale at 1; one channel, or as many as the model has.
            sample_rate: Of the mixture, in Hz.
            progress: Called after every chunk.

        Returns:
            Stems with the mixture's sample rate, channels and number of samples.

        Raises:
            AudioError: If the mixture is empty, not finite, or has other channels.
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
        length, channels = mixture.shape
        at_model_rate = resample(mixture.astype(np.float32, copy=False), sample_rate, spec.sample_rate)
        adapted = to_model_channels(at_model_rate, spec.channels)
        blocks = list(self.stream(lambda: [adapted], length=len(adapted), progress=progress))
        estimates = from_model_channels(np.concatenate(blocks, axis=1), channels)
        stems = {}
        for stem, estimate in zip(self.stems, estimates, strict=True):
            back = resample(estimate, spec.sample_rate, sample_rate)[:length]
            # A round trip between two rates can lose a sample.
            stems[stem] = np.pad(back, [(0, length - len(back)), (0, 0)])
        return Separation(stems, sample_rate)

    def stream(
        self,
        mixture: Callable[[], Iterable[HostWaveform]],
        *,
        length: int | None = None,
        progress: ProgressCallback | None = None,
        spool_directory: Path | None = None,
    ) -> Iterator[HostSourceWaveform]:
        """Separates blocks in a moving window.

        Args:
            mixture: Opens the mixture at its beginning: blocks (time, channel) of any length, at the model's sample
                rate, with the model's channels. Called `passes` times.
            length: Samples of the mixture, where known, for the progress.
            progress: Called after every chunk.
            spool_directory: Where the Wiener filter keeps its temporary file; None for the system's place.

        Yields:
            Blocks (source, time, channel) in the order of `stems`, altogether as long as the mixture.

        Raises:
            SeparationError: If a chunk does not come out finite.
            SeparationAborted: If `progress` returned False.
        """
        spec = self.model.spec

        def report(index: int, finished_passes: int = 0) -> None:
            done = (index + 1) * spec.chunking.chunk_hop - spec.chunking.lead
            if length is not None:
                done = length if index + 1 == spec.chunking.count(length) else min(done, length)
                done = (finished_passes * length + done) // self.passes
            total_seconds = None if length is None else length / spec.sample_rate
            if progress and progress(Progress(done / spec.sample_rate, total_seconds)) is False:
                raise SeparationAborted("The separation was stopped by its progress callback.")

        cutter = ChunkCutter(spec.chunking, spec.channels)
        if self._filter is None:
            chunks = self._masked_chunks(_chunks_of(mixture(), cutter), report)
        else:

            def reopen() -> Iterator[Chunk]:
                nonlocal cutter
                cutter = ChunkCutter(spec.chunking, spec.channels)
                return _chunks_of(mixture(), cutter)

            chunks = self._filter.run(self.model.variables, reopen, report, spool_directory)
        adder = OverlapAdder(spec.chunking, len(self.stems), spec.channels)
        finished = 0
        for estimates in chunks:
            for block in adder.add(estimates):
                block = block[:, : cutter.length - finished]
                finished += block.shape[1]
                yield block
        if finished < cutter.length:
            yield adder.finish()[:, : cutter.length - finished]

    def _program(self, network: nn.Module) -> Callable[[Any, Any], Any]:
        return partial(estimate_chunks, model=network, spec=self.model.spec, sources=self._sources)

    def _masked_chunks(self, chunks: Iterator[Chunk], report: Report) -> Iterator[SourceChunk]:
        spec = self.model.spec
        for index, (chunk, (waveforms, finite)) in enumerate(self._runner.run(self.model.variables, chunks)):
            if not finite and self._lowered:
                logger.warning("chunk %d is not finite in the lower precision: computing it in float32", index)
                ((_, (waveforms, finite)),) = self._float32_runner.run(self.model.variables, [chunk])
            if not finite:
                raise SeparationError(describe_not_finite(index, spec))
            report(index)
            yield waveforms

    def _runners(self) -> list[BatchRunner]:
        return [self._runner, self._float32_runner, *(self._filter.runners if self._filter else ())]


def to_model_channels(mixture: HostWaveform, channels: int) -> Float[np.ndarray, "time model_channel"]:
    """Returns the mixture (time, channel) with the model's channels: one channel is copied to all of them.

    Raises:
        AudioError: If the mixture has more than one channel and not the model's number of them.
    """
    got = mixture.shape[1]
    if got == channels:
        return mixture
    if got == 1:
        return np.repeat(mixture, channels, axis=1)
    raise AudioError(f"The mixture has {got} channels but the model takes {channels} (or 1); mix it down first.")


def from_model_channels(estimates: HostSourceWaveform, channels: int) -> Float[np.ndarray, "source time out_channel"]:
    """Returns estimates (source, time, channel) with the mixture's channels: for mono the mean of the model's."""
    return estimates if estimates.shape[2] == channels else estimates.mean(axis=2, keepdims=True)


def _chunks_of(blocks: Iterable[HostWaveform], cutter: ChunkCutter) -> Iterator[Chunk]:
    for block in blocks:
        yield from cutter.push(block)
    yield from cutter.finish()
