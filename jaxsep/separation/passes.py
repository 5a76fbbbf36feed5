"""What takes more than a look at each chunk: the Wiener filter, and networks that hear the whole track.

A network's magnitudes come in pieces of frames, from its chunks or from passes over the whole track. They become
waveforms by the model's masks or by the filter. A filter that needs statistics of the whole track takes a further pass
for every iteration, for which magnitudes wait in a temporary file. What is compiled is in pass_programs.py, the filter
itself in dsp/wiener.py, the passes of a network in models/whole_track.py.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float

from jaxsep.dsp.cuts import Cut, WholeTrack
from jaxsep.dsp.wiener import WienerConfig, WienerStatistics, accumulate_statistics, spatial_model
from jaxsep.errors import ConfigError, SeparationError
from jaxsep.models.cutting import whole_frames
from jaxsep.models.spec import ModelSpec
from jaxsep.models.whole_track import INPUT, OUTPUT, NetworkPass, WholeTrackNetwork
from jaxsep.separation.batches import BatchRunner, Program, Slot
from jaxsep.separation.estimate import describe_not_finite
from jaxsep.separation.frames import FrameJoiner, FrameSpool, GroupMagnitudes
from jaxsep.separation.mixtures import MixtureWindow
from jaxsep.separation.pass_programs import (
    ChunkMagnitudes,
    last_pass,
    network_pass,
    statistics_pass,
    whole_track_pass,
)
from jaxsep.separation.threads import ahead
from jaxsep.separation.window import Chunk, ChunkSamples, OverlapAdder, SourceChunk
from jaxsep.typing import Variables

logger = logging.getLogger(__name__)

# Chunks that are read ahead of the device: one to be ready, and one in the making.
READ_AHEAD = 2


class Item(NamedTuple):
    """One group of channels of one piece, on its way through the device."""

    cut: Cut
    samples: ChunkSamples
    magnitudes: Float[np.ndarray, "source frame bin channel"] | None = None
    models: Any = ()

    def arrays(self) -> Any:
        """Returns what the compiled functions take of it."""
        inputs = (self.samples, self.cut.weights)
        return inputs if self.magnitudes is None else (*inputs, self.magnitudes, self.models)


class MagnitudePasses:
    """Runs all passes over one track after another.

    Attributes:
        passes: Number of passes over the chunks of a track.
        runners: What runs in them.
        last: What runs in the last one.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: ModelSpec,
        wiener: WienerConfig | None,
        sources: tuple[int, ...],
        *,
        float32_network: nn.Module | None,
        batch_size: int | None,
        device: jax.Device,
        slot: Slot,
        program: Callable[..., Program],
    ) -> None:
        """Prepares the passes; compiles nothing yet.

        Args:
            network: A network on magnitudes.
            spec: Spec of the model.
            wiener: The filter; None for the model's masks.
            sources: Numbers of the sources to return.
            float32_network: What computes a chunk again whose magnitudes are not finite; None where `network` is in
                float32.
            batch_size: Chunks in one call; None for what is best on the device.
            device: Where to run.
            slot: The device's place for one batch.
            program: Makes a program of a function and its name.

        Raises:
            ConfigError: If the filter is one that does not stream, or the network lacks passes over whole tracks.
            SeparationError: If the network works on waveforms.
        """
        domain = spec.domain.magnitudes("the Wiener filter")
        if wiener is not None and wiener.residual:
            raise ConfigError(
                "A Separator's Wiener filter gives the stems alone, without a residual; use jaxsep.dsp.wiener_filter."
            )
        self._spec, self._domain, self._device, self._slot = spec, domain, device, slot
        self._wiener = wiener
        cutting = spec.procedure.cutting
        self._cuts = domain.cuts(cutting, spec.network_config)
        # A filter over the whole track has statistics to gather first; one in blocks, or none, works as it goes.
        self._gathers = wiener is not None and wiener.iterations > 0 and wiener.block_frames is None
        frames = wiener.block_frames if wiener is not None and wiener.block_frames else self._cuts.frames
        self._pieces = domain.cuts(whole_frames(domain.stft, frames), spec.network_config)
        overlapping = self._cuts.frame_hop < self._cuts.frames
        self._whole: WholeTrackNetwork | None = None
        if isinstance(cutting, WholeTrack):
            if not isinstance(network, WholeTrackNetwork):
                raise ConfigError(
                    f"The network of '{spec.name}' states no passes over whole tracks, which its procedure asks for."
                )
            self._whole = network
        # Statistics come with the magnitudes where a frame's are complete at once.
        self._fused = self._gathers and not overlapping and self._whole is None

        def runner(function: Callable[..., Any], size: int | None = batch_size, **options: Any) -> BatchRunner:
            name = f"{function.__name__} {domain!r} {options!r}"
            made = program(partial(function, domain=domain, **options), name)
            return BatchRunner(made, device=device, batch_size=size, arrays=_arrays, slot=slot)

        statistics_of = wiener if self._fused else None
        self._network = runner(network_pass, network=network, wiener=statistics_of)
        self._retry = None
        if float32_network is not None:
            self._retry = runner(network_pass, 1, network=float32_network, wiener=statistics_of)
        iterations = wiener.iterations if wiener is not None and self._gathers else 0
        self._statistics = [
            runner(statistics_pass, wiener=wiener) for _ in range(iterations - 1 if self._fused else iterations)
        ]
        self.last = runner(last_pass, wiener=wiener, sources=sources, blocks=not self._gathers)
        self.runners = [self._network, *self._statistics, self.last, *([self._retry] if self._retry else [])]
        self._network_passes = self._whole.passes() if self._whole is not None else ()
        self._programs = {
            each.name: program(
                partial(whole_track_pass, domain=domain, network=network, name=each.name),
                f"whole track {each.name} {domain!r} {network!r}",
            )
            for each in self._network_passes
        }
        self.passes = max(len(self._network_passes), 1) + len(self._statistics) + self._gathers

    def run(self, variables: Variables, window: MixtureWindow) -> Iterator[tuple[Cut, tuple[SourceChunk, ...]]]:
        """Yields the weighted estimates of each piece of a track, one for each group of channels.

        Args:
            variables: The model's variables, on the device.
            window: The track.

        Raises:
            SeparationError: If a chunk does not come out finite.
        """
        with ExitStack() as stack:
            spool = partial(FrameSpool, window.mixture.spool_directory)
            if not self._gathers:
                mixture: deque[Chunk] = deque()
                window.added_by(OverlapAdder(self._pieces))
                magnitudes = self._magnitudes(variables, window, stack, mixture, statistics=None)
                for cut, waveforms in self._rendered(self._joined(window, magnitudes, mixture), window):
                    yield cut, waveforms
                    if self.passes > 1:
                        window.report(cut, self.passes - 1)
                return
            kept = stack.enter_context(spool())
            statistics: list[WienerStatistics] = []
            models: list[tuple[Any, ...]] = []
            for frames in self._pieces_of(self._magnitudes(variables, window, stack, None, statistics)):
                kept.append(frames)
            done = max(len(self._network_passes), 1)
            if self._fused:
                models = self._extended(models, statistics)
            for runner in self._statistics:
                statistics = []
                found = runner.run((), self._spooled(window, kept, models, stack))
                for cut, results in self._checked(found, window):
                    _add_up(statistics, results)
                    window.report(cut, done)
                models = self._extended(models, statistics)
                done += 1
            window.added_by(OverlapAdder(self._pieces))
            for cut, waveforms in self._rendered(self._spooled(window, kept, models, stack), window):
                yield cut, waveforms
                window.report(cut, done)

    def _magnitudes(
        self,
        variables: Variables,
        window: MixtureWindow,
        stack: ExitStack,
        mixture: deque[Chunk] | None,
        statistics: list[WienerStatistics] | None,
    ) -> Iterator[tuple[Cut, GroupMagnitudes]]:
        """Yields the network's magnitudes of each chunk, in order.

        Args:
            variables: The model's variables.
            window: The track.
            stack: Closes what is open in the end.
            mixture: Takes the mixture in the pieces that will be rendered, read beside the chunks.
            statistics: Takes the sum of the statistics that come with the magnitudes, for each group.
        """

        def chunks(is_last: bool = True) -> Iterator[Chunk]:
            others = (self._pieces,) if is_last and mixture is not None else ()
            read = stack.enter_context(closing(ahead(window.chunks(*others), READ_AHEAD)))
            for way, chunk in read:
                if way == 0:
                    yield chunk
                elif mixture is not None:
                    mixture.append(chunk)

        if self._whole is not None:
            yield from self._whole_track(self._whole, variables, window, chunks, stack)
            return

        def items() -> Iterator[Item]:
            for chunk in chunks():
                yield from (Item(chunk.cut, samples) for samples in window.groups.split(chunk.samples))

        for cut, results in self._checked(self._network_results(variables, items()), window):
            if statistics is not None and self._fused:
                _add_up(statistics, results)
            yield cut, np.stack([result.magnitudes for result in results])
            if self.passes > 1:
                window.report(cut, 0)

    def _network_results(self, variables: Variables, items: Iterable[Item]) -> Iterator[tuple[Item, ChunkMagnitudes]]:
        for item, result in self._network.run(variables, items):
            if not result.finite and self._retry is not None:
                logger.warning("a chunk is not finite in the lower precision: computing it in float32")
                ((_, result),) = self._retry.run(variables, [item])
            yield item, result

    def _whole_track(
        self,
        network: WholeTrackNetwork,
        variables: Variables,
        window: MixtureWindow,
        chunks: Callable[[bool], Iterator[Chunk]],
        stack: ExitStack,
    ) -> Iterator[tuple[Cut, GroupMagnitudes]]:
        """Runs a network's passes over a whole track, between which its activations wait on disk."""
        spools: dict[str, FrameSpool] = {}
        count = 0
        for number, each in enumerate(self._network_passes):
            read = {name: spools[name] for name in each.reads if name != INPUT}
            written = {name: FrameSpool(window.mixture.spool_directory) for name in each.writes if name != OUTPUT}
            for spool in written.values():
                stack.enter_context(spool)
            pieces: Iterator[tuple[int, Chunk | None]]
            if INPUT in each.reads:
                pieces = enumerate(chunks(OUTPUT in each.writes))
            else:
                order = range(count)
                pieces = ((index, None) for index in (reversed(order) if each.is_backward else order))
            outputs = self._network_outputs(network, each, variables, window, pieces, read)
            for index, cut, found in outputs:
                count = max(count, index + 1)
                for name, spool in written.items():
                    spool.put(index, found[name])
                if OUTPUT in each.writes:
                    if not np.isfinite(found[OUTPUT]).all():
                        raise SeparationError(self._not_finite(cut))
                    yield cut, found[OUTPUT]
                    if self._gathers:
                        window.report(cut, number)
                elif self.passes > 1:
                    window.report(self._cuts.cut(count - 1 - index if each.is_backward else index, None), number)
            spools |= written
            # What no later pass reads need not wait on the disk any longer.
            later = {name for other in self._network_passes[number + 1 :] for name in other.reads}
            for name in set(spools) - later:
                spools.pop(name).close()

    def _network_outputs(
        self,
        network: WholeTrackNetwork,
        each: NetworkPass,
        variables: Variables,
        window: MixtureWindow,
        pieces: Iterator[tuple[int, Chunk | None]],
        read: dict[str, FrameSpool],
    ) -> Iterator[tuple[int, Cut, dict[str, np.ndarray]]]:
        """Yields what one pass gives of each piece; the next piece is computed while one is used."""
        carry: Any = None
        pending: tuple[int, Cut, Any] | None = None
        program = self._programs[each.name]
        for index, chunk in pieces:
            if carry is None:
                carry = jax.device_put(network.initial_carry(each.name, window.groups.count), self._device)
            # Which frames there are at the track's end is known by then.
            cut = self._cuts.cut(index, window.read_length) if chunk is None else chunk.cut
            arrays: dict[str, Any] = {name: spool.get(index) for name, spool in read.items()}
            weights = np.broadcast_to(cut.weights, (window.groups.count, len(cut.weights)))
            samples = None if chunk is None else np.stack(window.groups.split(chunk.samples))
            arguments = (variables, carry, samples, weights, arrays)
            self._slot.enter()
            carry, outputs = program.compiled(*arguments)(*jax.device_put(arguments, self._device))
            self._slot.hold((carry, outputs))
            if pending is not None:
                yield pending[0], pending[1], jax.tree.map(np.asarray, pending[2])
            pending = (index, cut, outputs)
        if pending is not None:
            yield pending[0], pending[1], jax.tree.map(np.asarray, pending[2])

    def _not_finite(self, cut: Cut) -> str:
        """Returns the message for a piece that is not finite: what recurrences carry on cannot be computed again."""
        message = describe_not_finite(cut, self._spec)
        return message if self._retry is None else f"{message} Run it again with precision 'float32'."

    def _joined(
        self, window: MixtureWindow, magnitudes: Iterator[tuple[Cut, GroupMagnitudes]], mixture: deque[Chunk]
    ) -> Iterator[Item]:
        """Yields the pieces that are rendered, each with the mixture that was read beside it."""
        for frames in self._pieces_of(magnitudes):
            if not mixture:  # behind the track's last piece
                return
            chunk = mixture.popleft()
            for group, samples in enumerate(window.groups.split(chunk.samples)):
                yield Item(chunk.cut, samples, frames[group])

    def _pieces_of(self, magnitudes: Iterator[tuple[Cut, GroupMagnitudes]]) -> Iterator[GroupMagnitudes]:
        joiner = FrameJoiner(self._cuts, self._pieces.frames)
        for _, found in magnitudes:
            yield from joiner.push(found)
        yield from joiner.finish()

    def _spooled(
        self, window: MixtureWindow, kept: FrameSpool, models: list[tuple[Any, ...]], stack: ExitStack
    ) -> Iterator[Item]:
        """Yields the pieces of a further pass: the mixture read anew, and the magnitudes from disk."""
        read = stack.enter_context(closing(ahead(window.chunks(self._pieces), READ_AHEAD)))
        for index, chunk in enumerate(chunk for way, chunk in read if way == 1):
            frames = kept.get(index)
            for group, samples in enumerate(window.groups.split(chunk.samples)):
                yield Item(chunk.cut, samples, frames[group], models[group] if models else ())

    def _rendered(self, items: Iterator[Item], window: MixtureWindow) -> Iterator[tuple[Cut, tuple[SourceChunk, ...]]]:
        for cut, results in self._checked(self.last.run((), items), window):
            yield cut, tuple(result.waveforms for result in results)

    def _checked(
        self, results: Iterator[tuple[Item, Any]], window: MixtureWindow
    ) -> Generator[tuple[Cut, list[Any]], None, None]:
        """Yields the results of all groups of each piece."""
        waiting: list[Any] = []
        for item, result in results:
            if not result.finite:
                raise SeparationError(describe_not_finite(item.cut, self._spec))
            waiting.append(result)
            if len(waiting) == window.groups.count:
                yield item.cut, waiting
                waiting = []

    def _extended(self, models: list[tuple[Any, ...]], statistics: list[WienerStatistics]) -> list[tuple[Any, ...]]:
        """Returns the filter's models with those of one more iteration, of each group."""
        assert self._wiener is not None
        # Divided on the host, where that is no program to compile.
        found = [jax.tree.map(np.asarray, spatial_model(each, config=self._wiener)) for each in statistics]
        before = models or [()] * len(found)
        return [(*own, model) for own, model in zip(before, found, strict=True)]


def _add_up(sums: list[WienerStatistics], results: list[Any]) -> None:
    """Adds the statistics of a chunk's groups to their sums so far."""
    before = [[each] for each in sums] or [[] for _ in results]
    sums[:] = [accumulate_statistics([*own, result.statistics]) for own, result in zip(before, results, strict=True)]


def _arrays(item: Item) -> Any:
    return item.arrays()
