"""Signal processing without parameters: transforms, masks, overlap-add, the Wiener filter.

Pure functions of (arrays, config): jit-able, differentiable, vmappable. `jaxsep.dsp.stft` and `jaxsep.dsp.overlap_add`
are the functions, not the modules that they are from.
"""

from jaxsep.dsp.cuts import Chunking, Cut, FrameCuts, SampleCuts, WholeTrack
from jaxsep.dsp.masks import (
    MaskConfig,
    apply_masks,
    direct_masks,
    extend_masks,
    project_onto_mixture,
    ratio_masks,
    softmax_masks,
)
from jaxsep.dsp.overlap_add import Chunks, overlap_add, split_into_chunks
from jaxsep.dsp.stft import STFTConfig, analyse, coverage, frame_count, istft, stft, synthesise
from jaxsep.dsp.wiener import (
    NORBERT,
    OPEN_UNMIX,
    SpatialModel,
    WienerConfig,
    WienerStatistics,
    accumulate_statistics,
    chunk_statistics,
    filter_step,
    initial_estimates,
    spatial_model,
    wiener_filter,
)

__all__ = [
    "NORBERT",
    "OPEN_UNMIX",
    "Chunking",
    "Chunks",
    "Cut",
    "FrameCuts",
    "MaskConfig",
    "STFTConfig",
    "SampleCuts",
    "SpatialModel",
    "WholeTrack",
    "WienerConfig",
    "WienerStatistics",
    "accumulate_statistics",
    "analyse",
    "apply_masks",
    "chunk_statistics",
    "coverage",
    "direct_masks",
    "extend_masks",
    "filter_step",
    "frame_count",
    "initial_estimates",
    "istft",
    "overlap_add",
    "project_onto_mixture",
    "ratio_masks",
    "softmax_masks",
    "spatial_model",
    "split_into_chunks",
    "stft",
    "synthesise",
    "wiener_filter",
]
