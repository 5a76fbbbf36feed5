"""What the hybrid kinds of Demucs state about their networks, under the names of Demucs's own constructors."""

from typing import NamedTuple

import numpy as np
import pydantic

from jaxsep.models.demucs_config import BranchedDemucsConfig
from jaxsep.models.demucs_layers import DConvConfig


class HybridConfig(BranchedDemucsConfig):
    """The shape of a network with a branch on spectrograms and one on waveforms; see `BranchedDemucsConfig`.

    Defaults are those of `HDemucs`. `features` and `kernel_size` are those of the first layer on spectrograms, along
    frequency, and of kernels along time on waveforms.

    Attributes:
        channels_time: Channels of the first layer on waveforms; null for as many as on spectrograms.
        n_fft: Size of the transform; its hop is a quarter of it.
        cac: Whether real and imaginary parts are channels that the network sees and gives; otherwise magnitudes.
        hybrid_old: Whether zeros surround the mixture before the transform, and not its reflection, as in some models
            of the Music Demixing Challenge.
        multi_freqs: Shares of the frequencies at which outer layers have other weights.
        multi_freqs_depth: How many outer layers have them.
        freq_emb: Weight of the embedding of frequencies behind the first layer; 0 for none.
        emb_scale: Factor of the embedding's values.
        time_stride: Step along time of layers inside of one row of frequencies.
        context: Positions on either side that gated convolutions of the decoder see.
        context_enc: Positions on either side that gated convolutions of the encoder see.
    """

    features: int = pydantic.Field(default=48, ge=1, le=1 << 16)
    channels_time: int | None = pydantic.Field(default=None, ge=1, le=1 << 16)
    n_fft: int = pydantic.Field(default=4096, ge=16, le=1 << 20, multiple_of=4)
    cac: bool = True
    hybrid_old: bool = False
    multi_freqs: tuple[float, ...] = ()
    multi_freqs_depth: int = pydantic.Field(default=2, ge=0)
    freq_emb: float = pydantic.Field(default=0.2, ge=0)
    emb_scale: float = pydantic.Field(default=10.0, gt=0)
    kernel_size: int = pydantic.Field(default=8, ge=2, le=1024)
    time_stride: int = pydantic.Field(default=2, ge=1)
    context: int = pydantic.Field(default=1, ge=0)
    context_enc: int = pydantic.Field(default=0, ge=0)

    @pydantic.model_validator(mode="after")
    def _bands_can_be_had(self) -> "HybridConfig":
        shares = self.multi_freqs
        if not shares:
            return self
        if list(shares) != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] < 1:
            raise ValueError(f"multi_freqs are shares of the frequencies that grow, above 0 and below 1, not {shares}")
        if self.kernel_size != 2 * self.stride or self.norm_starts < self.multi_freqs_depth:
            raise ValueError("layers with bands have kernels of two strides, and no norms")
        rows = self.n_fft // 2
        for shape in self.layers()[: self.multi_freqs_depth]:
            ends = [0, *(round(rows * share) for share in shares), rows]
            if min(np.diff(ends)) <= self.kernel_size or shape.features_time is None or shape.is_last_row:
                raise ValueError(f"bands of {rows} rows that end at {ends[1:]} leave too few for the layers in them")
            rows = shape.rows
        return self

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next."""
        return self.n_fft // 4

    def layers(self) -> tuple["LayerShape", ...]:
        """Returns the layers of the encoder from the outermost one; those of the decoder mirror them."""
        shapes = []
        rows, on_spectrogram, on_waveform = self.n_fft // 2, self.features, self.channels_time or self.features
        for index in range(self.depth):
            is_last_row = 1 < rows <= self.kernel_size
            if is_last_row:
                on_spectrogram = on_waveform = max(on_spectrogram, on_waveform)
            in_time = rows == 1
            size = 2 * self.time_stride if in_time else rows if is_last_row else self.kernel_size
            stride = self.time_stride if in_time else self.stride
            rows_after = 1 if rows <= self.kernel_size else rows // self.stride
            shapes.append(
                LayerShape(
                    features=on_spectrogram,
                    features_time=None if in_time else on_waveform,
                    kernel_size=size,
                    stride=stride,
                    padding=0 if is_last_row else size // 4,
                    rows=rows_after,
                    is_last_row=is_last_row,
                    norm_groups=self.norm_groups if index >= self.norm_starts else None,
                    dconv=self.branch(index),
                    has_bands=bool(self.multi_freqs) and index < self.multi_freqs_depth,
                )
            )
            rows = rows_after
            on_spectrogram, on_waveform = int(self.growth * on_spectrogram), int(self.growth * on_waveform)
        return tuple(shapes)


class LayerShape(NamedTuple):
    """One layer of the encoder, and the one of the decoder that mirrors it.

    Attributes:
        features: Channels on spectrograms.
        features_time: Channels on waveforms; None inside of where the branches have met.
        kernel_size: Size along frequency, or along time where one row is left.
        stride: Step of the same.
        padding: Zeros at either end of the same.
        rows: Rows of frequencies behind it.
        is_last_row: Whether it leaves one row, which the branch on waveforms is added to.
        norm_groups: Groups of its norms; None for none.
        dconv: Its residual branch.
        has_bands: Whether it has other weights in each band.
    """

    features: int
    features_time: int | None
    kernel_size: int
    stride: int
    padding: int
    rows: int
    is_last_row: bool
    norm_groups: int | None
    dconv: DConvConfig
    has_bands: bool
