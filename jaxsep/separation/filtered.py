"""The Wiener filter in a moving window: one pass of the network, and one more pass over the track for every iteration.

The filter needs statistics of the whole track. They are summed chunk by chunk in float64 on the host; the network's
magnitudes wait in a temporary file for the passes after the first. The filter itself is in dsp/wiener.py.
"""

import logging
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from jaxsep.dsp.stft import analyse, synthesise
from jaxsep.dsp.wiener import (
    SpatialModel,
    WienerConfig,
    WienerStatistics,
    accumulate_statistics,
    chunk_statistics,
    filter_step,
    initial_estimates,
    spatial_model,
)
from jaxsep.errors import ConfigError, SeparationError
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.batches import BatchRunner
from jaxsep.separation.estimate import (
    ChunkEstimates,
    Chunks,
    all_bins,
    all_finite,
    describe_not_finite,
    magnitude_domain,
    rotated,
    select,
)
from jaxsep.separation.programs import ProgramStore
from jaxsep.separation.window import Chunk, SourceChunk
from jaxsep.typing import SourceMagnitude, SourceSpectrogram, Spectrogram, Variables

logger = logging.getLogger(__name__)


class ChunkMagnitudes(NamedTuple):
    """What the first pass takes from each chunk.

    Attributes:
        magnitudes: The network's (chunk, source, frame, freq, channel).
        statistics: Of the filter's initial estimates.
        finite: Whether each chunk's magnitudes are all finite.
    """

    magnitudes: Float[Array, "chunk source frame freq channel"]
    statistics: WienerStatistics
    finite: Bool[Array, " chunk"]


class ChunkStatistics(NamedTuple):
    """What a pass between the first and the last takes from each chunk.

    Attributes:
        statistics: Of the estimates so far.
        finite: Whether they are all finite.
    """

    statistics: WienerStatistics
    finite: Bool[Array, " chunk"]


class FilteredChunks:
    """Runs the passes of the Wiener filter over the chunks of a track.

    Attributes:
        passes: How often the chunks are asked for.
        runners: One for each pass.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: ModelSpec,
        config: WienerConfig,
        sources: tuple[int, ...],
        *,
        float32_network: nn.Module | None,
        device: jax.Device,
        batch_size: int | None,
        programs: ProgramStore | None,
    ) -> None:
        """Prepares the passes; compiles nothing yet.

        Args:
            network: On magnitudes.
            spec: What the weights belong to.
            config: Of the filter: over the whole track, one iteration or more, no residual.
            sources: Which sources to return.
            float32_network: What computes a chunk again whose magnitudes are not finite; None where `network` is in
                float32.
            device: Where to run.
            batch_size: Chunks in one call; None for what is best on the device.
            programs: Where compiled programs are kept; None keeps none.

        Raises:
            ConfigError: If the filter is one that does not stream.
            SeparationError: If the network works on waveforms.
        """
        magnitude_domain(spec)
        if config.block_frames is not None or config.residual or config.iterations < 1:
            raise ConfigError(
                "A Separator filters whole tracks (block_frames=None) in one iteration or more, without a residual; "
                "use jaxsep.estimate_sources for other forms of the Wiener filter."
            )
        self._spec, self._config, self._device = spec, config, device

        def runner(function: Callable[..., Any], size: int | None = batch_size, **options: Any) -> BatchRunner:
            return BatchRunner(
                partial(function, spec=spec, config=config, **options),
                device=device,
                batch_size=size,
                programs=programs,
                name=f"{function.__name__} {spec!r} {config!r} {options}",
            )

        self._first = runner(_first_pass, network=network)
        self._retry = None if float32_network is None else runner(_first_pass, 1, network=float32_network)
        middle = [runner(_middle_pass) for _ in range(config.iterations - 1)]
        self.runners = [self._first, *middle, runner(_last_pass, sources=sources)]
        self.passes = len(self.runners)

    def run(
        self,
        variables: Variables,
        reopen: Callable[[], Iterable[tuple[Chunk, ...]]],
        groups: int,
        report: Callable[[int, int], None],
        spool_directory: Path | None,
    ) -> Iterator[tuple[SourceChunk, ...]]:
        """Yields the estimates of each chunk in the last pass.

        Args:
            variables: The model's variables, on the device.
            reopen: Gives the chunks from the beginning, one of each group of channels; called once for every pass.
            groups: Of channels, each filtered as a track of its own.
            report: Called with the number of each chunk that is done, and with that of the passes before.
            spool_directory: Where the temporary file goes; None for the system's place.

        Raises:
            SeparationError: If a chunk does not come out finite.
        """
        with tempfile.TemporaryFile(dir=spool_directory, prefix=".magnitudes.") as spool:
            models: list[tuple[SpatialModel, ...]] = [()] * groups
            for number, runner in enumerate(self.runners):
                # The groups run side by side, a chunk of each at a time, so that none waits for long.
                if number == 0:
                    runs = [self._network_pass(variables, chunks) for chunks in _split(reopen(), groups)]
                else:
                    split = _split(self._with_magnitudes(reopen(), spool), groups)
                    runs = [runner.run(own, chunks) for own, chunks in zip(models, split, strict=True)]
                checked = self._checked(zip(*runs, strict=True), number, report)
                if number == self.passes - 1:
                    for estimates in checked:
                        yield tuple(of_group.waveforms for of_group in estimates)
                    return
                model = spatial_model(
                    accumulate_statistics(_statistics(checked, spool if number == 0 else None)), config=self._config
                )
                # Divided on the host, where that is no program to compile.
                on_host = jax.tree.map(np.asarray, model)
                models = [
                    (*own, jax.device_put(jax.tree.map(lambda leaf, group=group: leaf[group], on_host), self._device))
                    for group, own in enumerate(models)
                ]

    def _network_pass(self, variables: Variables, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, ChunkMagnitudes]]:
        for index, (chunk, result) in enumerate(self._first.run(variables, chunks)):
            if not result.finite and self._retry is not None:
                logger.warning("chunk %d is not finite in the lower precision: computing it in float32", index)
                ((_, result),) = self._retry.run(variables, [chunk])
            yield chunk, result

    def _checked(
        self, results: Iterator[tuple[tuple[Any, Any], ...]], number: int, report: Callable[[int, int], None]
    ) -> Iterator[tuple[Any, ...]]:
        for index, groups in enumerate(results):
            if not all(result.finite for _, result in groups):
                raise SeparationError(describe_not_finite(index, self._spec))
            yield tuple(result for _, result in groups)
            report(index, number)

    def _with_magnitudes(
        self, chunks: Iterable[tuple[Chunk, ...]], spool: BinaryIO
    ) -> Iterator[tuple[tuple[Chunk, np.ndarray], ...]]:
        transform, _ = magnitude_domain(self._spec)
        frames = self._spec.chunking.chunk_hop // transform.hop_length
        shape = (len(self._spec.stems), frames, self._spec.bins, self._spec.channels)
        size = int(np.prod(shape)) * np.dtype(np.float32).itemsize
        spool.seek(0)
        for groups in chunks:
            yield tuple((chunk, np.frombuffer(spool.read(size), np.float32).reshape(shape)) for chunk in groups)


def _first_pass(
    variables: Variables, chunks: Chunks, *, network: nn.Module, spec: ModelSpec, config: WienerConfig
) -> ChunkMagnitudes:
    spectrogram, in_band = _spectrograms(chunks, spec)
    magnitudes = network.apply(variables, jnp.abs(in_band), train=False)
    statistics = chunk_statistics(initial_estimates(magnitudes, in_band, config=config), in_band)
    # The filter's scale is that of the whole mixture, bins above the model's bandwidth included.
    peak_power = jnp.square(jnp.abs(spectrogram)).max(axis=(1, 2, 3))
    return ChunkMagnitudes(magnitudes, statistics._replace(peak_power=peak_power), all_finite(magnitudes))


def _middle_pass(
    models: tuple[SpatialModel, ...], chunks: tuple[Chunks, SourceMagnitude], *, spec: ModelSpec, config: WienerConfig
) -> ChunkStatistics:
    spectrogram, in_band = _spectrograms(chunks[0], spec)
    estimates = _filter(models, chunks[1], in_band, config)
    peak_power = jnp.square(jnp.abs(spectrogram)).max(axis=(1, 2, 3))
    statistics = chunk_statistics(estimates, in_band)._replace(peak_power=peak_power)
    return ChunkStatistics(statistics, all_finite(estimates))


def _last_pass(
    models: tuple[SpatialModel, ...],
    chunks: tuple[Chunks, SourceMagnitude],
    *,
    spec: ModelSpec,
    config: WienerConfig,
    sources: tuple[int, ...],
) -> ChunkEstimates:
    transform, _ = magnitude_domain(spec)
    estimates = select(_filter(models, chunks[1], _spectrograms(chunks[0], spec)[1], config), sources)
    waveforms = rotated(synthesise(all_bins(estimates, transform), transform), spec)
    return ChunkEstimates(waveforms, all_finite(waveforms))


def _filter(
    models: tuple[SpatialModel, ...], magnitudes: SourceMagnitude, in_band: Spectrogram, config: WienerConfig
) -> SourceSpectrogram:
    estimates = initial_estimates(magnitudes, in_band, config=config)
    # One spatial model for all chunks of the track.
    step = jax.vmap(partial(filter_step, config=config), in_axes=(0, 0, None))
    for model in models:
        estimates = step(jax.lax.optimization_barrier(estimates), in_band, model)
    return estimates


def _spectrograms(chunks: Chunks, spec: ModelSpec) -> tuple[Spectrogram, Complex[Array, "chunk frame bin channel"]]:
    """Returns all bins, and those of the model: above them magnitudes are zero, and so is what is filtered."""
    transform, _ = magnitude_domain(spec)
    spectrogram = analyse(rotated(chunks, spec), transform)
    return spectrogram, spectrogram[..., : spec.bins, :]


def _split(items: Iterable[tuple[Any, ...]], groups: int) -> list[Iterator[Any]]:
    """Returns an iterator for each group; they are to be used side by side.

    Not by `itertools.tee`, which holds up to 57 items that all have had: a gigabyte of magnitudes.
    """
    source = iter(items)
    waiting: list[deque[Any]] = [deque() for _ in range(groups)]

    def of_group(own: deque[Any]) -> Iterator[Any]:
        while True:
            if not own:
                for queue, part in zip(waiting, next(source, ()), strict=False):
                    queue.append(part)
            if not own:
                return
            yield own.popleft()

    return [of_group(own) for own in waiting]


def _statistics(results: Iterator[tuple[Any, ...]], spool: BinaryIO | None) -> Iterator[WienerStatistics]:
    """Yields each chunk's statistics, groups along the first axis, and puts magnitudes aside where they are new."""
    for groups in results:
        if spool is not None:
            for result in groups:
                spool.write(np.ascontiguousarray(result.magnitudes).data)
        yield jax.tree.map(lambda *leaves: np.stack(leaves), *(result.statistics for result in groups))
