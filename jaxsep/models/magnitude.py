"""The domain of networks on the magnitudes of a transform, which masks or a filter take back to waveforms."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import pydantic
from jaxtyping import Array, Complex, Float, Inexact

from jaxsep.config import Config
from jaxsep.dsp.cuts import Chunking, FrameCuts, WholeTrack
from jaxsep.dsp.masks import MaskConfig, apply_masks, direct_masks, extend_masks, ratio_masks
from jaxsep.dsp.overlap_add import reciprocal
from jaxsep.dsp.stft import STFTConfig, analyse, coverage, istft, stft, synthesise
from jaxsep.dsp.wiener import WienerConfig, wiener_filter
from jaxsep.errors import ConfigError
from jaxsep.models.context import Apply, Context, Weights, select
from jaxsep.models.cutting import changed_cutting, hop_of, whole_frames
from jaxsep.models.family import FamilyConfig, SpectralConfig
from jaxsep.models.segments import run_overlapped, split_frames
from jaxsep.typing import SourceMagnitude, SourceWaveform, Spectrogram
from jaxsep.typing import Waveform as WaveformArray


class Magnitude(Config):
    """A network from the magnitudes of a mixture to those of its sources, and the masks that these make.

    Attributes:
        kind: Always 'magnitude'.
        stft: The transform around the network.
        masks: How source magnitudes become masks.
        bins: Number of bins from 0 Hz up that the network sees; above them the stems are what the mask extension makes
            of them.
        stereo: What the two channels are that network, masks and filter see: 'left_right', or 'mid_side', the sum and
            the difference of left and right over the root of two. What lies in the middle then has a channel to itself.
    """

    kind: Literal["magnitude"] = "magnitude"
    stft: STFTConfig
    masks: MaskConfig = MaskConfig()
    bins: int = pydantic.Field(ge=1)
    stereo: Literal["left_right", "mid_side"] = "left_right"

    @pydantic.model_validator(mode="after")
    def _the_transform_has_these_bins_and_restores_tracks(self) -> "Magnitude":
        if self.bins > self.stft.bins:
            raise ValueError(f"bins (= {self.bins}) exceed those of the transform (= {self.stft.bins})")
        if not self.stft.covers_every_length:
            raise ValueError(
                f"with hop_length {self.stft.hop_length} and n_fft {self.stft.n_fft} torch's inverse transform does "
                "not restore the last samples of some tracks; take a shorter hop, or the convention 'spleeter'"
            )
        return self

    def encode(
        self, mixture: WaveformArray, weights: Weights | None = None
    ) -> tuple[Float[Array, "*batch frame bin channel"], Context]:
        """Returns the magnitudes that the network sees, and what `decode` needs again.

        Args:
            mixture: Waveforms (*batch, time, channel) of whole frames: chunks, or training examples.
            weights: Weights of a chunk's frames; None for 1. Frames of weight 0 are silent.
        """
        spectrogram = self.spectrogram(mixture)
        if weights is not None and self.stft.edges.reflected:
            # Frames that the whole track's transform does not have may hold some of its reflected end.
            spectrogram = jnp.where((weights > 0)[..., None, None], spectrogram, 0)
        return self.seen(spectrogram), Context(spectrogram, weights)

    def decode(
        self,
        outputs: Float[Array, "*batch source frame bin channel"],
        context: Context,
        sources: tuple[int, ...] | None = None,
    ) -> Float[Array, "*batch chosen time channel"]:
        """Returns waveforms of the chosen sources, or of all, of weighted frames; they fade at their ends.

        Args:
            outputs: What the network gave.
            context: From `encode`.
            sources: Numbers of the sources to return. Each mask needs the magnitudes of all.
        """
        return self.waveforms(self.masked(outputs, context.spectrogram, sources, context.weights))

    def targets(self, sources: SourceWaveform) -> SourceMagnitude:
        """Returns the magnitudes of true sources in the network's bins."""
        return self.seen(self.spectrogram(sources))

    def for_training(self) -> "Magnitude":
        """Returns the domain as a loss sees it: masks as they are, not sharpened."""
        return self.model_copy(update={"masks": self.masks.model_copy(update={"sharpening": 1.0})})

    def input_domain(self) -> "Magnitude":
        """Returns the part of the domain that decides what the network sees: all but the masks."""
        return self.model_copy(update={"masks": MaskConfig()})

    def interior(self, length: int) -> slice:
        """Returns which samples of a decoded example of `length` samples are complete, covered by all their frames."""
        fading = self.stft.n_fft - self.stft.hop_length
        return slice(fading, length - fading)

    def input_shape(self, length: int, channels: int) -> tuple[int, ...]:
        """Returns the shape of what the network sees of `length` samples."""
        return ((length - self.stft.n_fft) // self.stft.hop_length + 1, self.bins, channels)

    def output_shape(self, length: int, config: FamilyConfig) -> tuple[int, ...]:
        """Returns the shape of what it gives of each source."""
        return self.input_shape(length, config.channels)

    def bandwidth_hz(self, sample_rate: int) -> float:
        """Returns up to which frequency stems are estimated."""
        return self.bins * sample_rate / self.stft.n_fft

    def cuts(self, cutting: Chunking | WholeTrack, config: FamilyConfig) -> FrameCuts:
        """Returns how tracks are cut; whole tracks are taken in pieces that share no frame."""
        if isinstance(cutting, WholeTrack):
            hop = cutting.chunk_length - self.stft.n_fft + self.stft.hop_length
            cutting = Chunking(chunk_length=cutting.chunk_length, chunk_hop=hop)
        return FrameCuts(cutting, self.stft)

    def recut(
        self, cutting: Chunking, config: FamilyConfig, *, chunk: int | None, overlap: float | int | None
    ) -> Chunking:
        """Returns chunks of another length, or with another overlap; see `Waveform.recut`. In whole frames."""
        frames = self.input_shape(cutting.chunk_length, 1)[0]
        hop_frames = cutting.chunk_hop // self.stft.hop_length
        share = hop_frames / frames
        if chunk is not None:
            frames = config.input_length(max(-(-chunk // self.stft.hop_length), 1))
        hop_frames = hop_of(frames, overlap, share=share)
        length = whole_frames(self.stft, frames).chunk_length
        return changed_cutting(
            cutting, length, length, hop_frames * self.stft.hop_length, is_overlapped=hop_frames < frames
        )

    def complete(self, cutting: Mapping[str, Any], config: FamilyConfig) -> dict[str, Any]:
        """Returns chunks with a hop at which they share no frame, where none is given; see `Waveform.complete`."""
        chunk_length = cutting.get("chunk_length")
        if not isinstance(chunk_length, int):
            return dict(cutting)
        self.check_length(chunk_length, config)
        return {"chunk_hop": chunk_length - self.stft.n_fft + self.stft.hop_length, **cutting}

    def estimate_track(
        self,
        apply: Apply,
        mixture: WaveformArray,
        cutting: Chunking | WholeTrack,
        config: FamilyConfig,
        wiener: WienerConfig | None,
    ) -> SourceWaveform:
        """Separates a whole track; see `jaxsep.separation.estimate.estimate_sources`."""
        length, shortest = mixture.shape[-2], self.stft.edges.shortest()
        mixture = jnp.pad(mixture, [(0, 0)] * (mixture.ndim - 2) + [(0, max(shortest - length, 0)), (0, 0)])
        spectrogram = stft(self.rotated(mixture), self.stft)
        cuts = self.cuts(cutting, config)
        overlapping = cuts.frame_hop < cuts.frames
        if wiener is not None or not overlapping:
            magnitudes = self.estimate_magnitudes(apply, spectrogram, cutting, config)
            if wiener is None:
                sources = self.masked(magnitudes, spectrogram)
            else:
                sources = wiener_filter(all_bins(magnitudes, self.stft), spectrogram, config=wiener)
            waveforms = istft(all_bins(sources, self.stft), self.stft, length=max(length, shortest))
            return self.rotated(waveforms)[..., :length, :]
        # Each chunk has masks of its own, and each frame the weighted mean of what its chunks make of it.
        total, weights = run_overlapped(apply, spectrogram, cuts, self.seen, self.masked)
        waveforms = self.waveforms(total)
        start = self.stft.edges.length
        share = reciprocal(coverage(weights, self.stft)[start : start + length])
        factors = jnp.asarray(share, waveforms.dtype).reshape((1,) * (waveforms.ndim - 2) + (-1, 1))
        return waveforms[..., start : start + length, :] * factors

    def estimate_magnitudes(
        self, apply: Apply, spectrogram: Spectrogram, cutting: Chunking | WholeTrack, config: FamilyConfig
    ) -> Float[Array, "*batch source frame bin channel"]:
        """Runs the network over a spectrogram of any number of frames.

        Frames are taken in chunks; the last one is filled with zeros, of which nothing reaches the result. Frames that
        several chunks share have the weighted mean of their magnitudes. A network that hears the whole track sees it
        in one piece.

        Args:
            apply: Calls the network.
            spectrogram: Spectrograms (*batch, frame, freq, channel) with all bins, of the channels that it sees.
            cutting: How tracks are cut.
            config: The network's config.
        """
        frames = spectrogram.shape[-3]
        if isinstance(cutting, WholeTrack):
            return apply(self.seen(spectrogram))
        cuts = self.cuts(cutting, config)
        if cuts.frame_hop < cuts.frames:
            total, weights = run_overlapped(apply, spectrogram, cuts, self.seen, lambda magnitudes, _: magnitudes)
            return total * jnp.asarray(1 / weights, total.dtype).reshape((1,) * (total.ndim - 3) + (-1, 1, 1))
        magnitude = split_frames(self.seen(spectrogram), cuts)
        sources = jnp.moveaxis(apply(magnitude), -4, -5)
        return sources.reshape(*sources.shape[:-4], -1, *sources.shape[-2:])[..., :frames, :, :]

    def check_length(self, length: int, config: FamilyConfig) -> None:
        """Refuses chunks or training examples of so many samples; see `Waveform.check_length`."""
        frames, rest = divmod(length - self.stft.n_fft, self.stft.hop_length)
        if rest or frames < 0:
            raise ConfigError("a chunk must hold whole frames: chunk_length is n_fft and a multiple of hop_length")
        config.output_length(frames + 1)

    def check(self, config: FamilyConfig, stems: int, cutting: Chunking | WholeTrack) -> None:
        """Refuses what cannot go together.

        Raises:
            ConfigError: One sentence.
        """
        if not isinstance(config, SpectralConfig):
            raise ConfigError("the config of a network on magnitudes states its 'bins'")
        if self.masks.kind == "ratio" and stems == 1:
            raise ConfigError("the ratio mask of a single source is always one; use masks of kind 'direct'")
        if config.bins != self.bins:
            raise ConfigError(f"the domain has {self.bins} bins, but the config has {config.bins}")
        if self.stereo == "mid_side" and config.channels != 2:
            raise ConfigError("stereo 'mid_side' is for networks on the magnitudes of two channels")
        self.check_length(cutting.chunk_length, config)
        frames = (cutting.chunk_length - self.stft.n_fft) // self.stft.hop_length
        if isinstance(cutting, WholeTrack):
            if config.length_step != 1:
                raise ConfigError(
                    "a network that hears the whole track takes any number of frames, and this one takes multiples of "
                    f"{config.length_step}"
                )
            return
        if cutting.estimate_length != cutting.chunk_length or cutting.last != "padded":
            raise ConfigError(
                "frames fade by themselves and are not there behind a track: estimate_length = chunk_length, and "
                "last = 'padded'"
            )
        if cutting.chunk_hop % self.stft.hop_length or cutting.chunk_hop > (frames + 1) * self.stft.hop_length:
            raise ConfigError("chunk_hop must be a multiple of hop_length, and no more than a chunk's frames")

    def magnitudes(self, what: str) -> "Magnitude":
        """Returns itself: it has the magnitudes that `what` needs."""
        return self

    def spectrogram(self, audio: Float[Array, "*batch time channel"]) -> Complex[Array, "*batch frame freq channel"]:
        """Returns the frames that lie in the audio as it is, of the channels that the network sees."""
        return analyse(self.rotated(audio), self.stft)

    def seen(
        self, spectrogram: Complex[Array, "*batch frame freq channel"]
    ) -> Float[Array, "*batch frame bin channel"]:
        """Returns the magnitudes in the network's bins."""
        return jnp.abs(spectrogram[..., : self.bins, :])

    def waveforms(
        self, sources: Complex[Array, "*batch source frame some_freq channel"]
    ) -> Float[Array, "*batch source time channel"]:
        """Returns the waveforms of frames in the lowest bins, nothing cut."""
        return self.rotated(synthesise(all_bins(sources, self.stft), self.stft))

    def rotated(self, audio: Float[Array, "*batch time channel"]) -> Float[Array, "*batch time channel"]:
        """Returns the channels that the network sees; of those that it gives, the channels that are heard.

        To the middle and the sides of a stereo signal it is the same rotation, its own inverse, that leads there and
        back.
        """
        if self.stereo == "left_right":
            return audio
        left, right = audio[..., 0], audio[..., 1]
        return jnp.stack([left + right, left - right], axis=-1) * 0.5**0.5

    def masked(
        self,
        magnitudes: Float[Array, "*batch source frame bin channel"],
        spectrogram: Spectrogram,
        sources: tuple[int, ...] | None = None,
        weights: Weights | None = None,
    ) -> Complex[Array, "*batch chosen frame masked_freq channel"]:
        """Applies the masks that magnitudes make to the mixture and returns the selected sources.

        Where masks are zero above the network's bins, only the bins below are returned.
        """
        masks = self.masks
        if masks.kind == "direct":
            mixture = jnp.abs(spectrogram[..., : magnitudes.shape[-2], :])
            factors = direct_masks(magnitudes, mixture, sharpening=masks.sharpening)
        else:
            factors = ratio_masks(magnitudes, exponent=masks.exponent, eps=masks.eps)
        factors = select(factors, sources, axis=-4)
        if masks.extension != "zeros":
            factors = extend_masks(factors, bins=spectrogram.shape[-2], extension=masks.extension)
        mixture = spectrogram[..., : factors.shape[-2], :]
        if weights is not None:
            scale = weights[..., None, None]
            mixture = jax.lax.complex(mixture.real * scale, mixture.imag * scale)
        return apply_masks(factors, mixture)


def all_bins(
    sources: Inexact[Array, "*batch source frame freq channel"], transform: STFTConfig
) -> Inexact[Array, "*batch source frame all_freq channel"]:
    """Fills the bins above a model's bandwidth with zeros."""
    missing = transform.bins - sources.shape[-2]
    return jnp.pad(sources, [(0, 0)] * (sources.ndim - 2) + [(0, missing), (0, 0)])
