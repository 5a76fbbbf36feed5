"""Scores of estimates against true sources: host arrays in, numbers out.

No tracks, no files, no tables: those are in `jaxsep.evaluation`. `jaxsep.metrics.bss_eval` is the function, not the
module that it is from.
"""

from jaxsep.metrics.bss_eval import bss_eval, bss_eval_streamed
from jaxsep.metrics.frame_scores import BssEvalScores
from jaxsep.metrics.log_wmse import log_wmse
from jaxsep.metrics.museval_wrapper import museval_scores
from jaxsep.metrics.sdr import TrackSums, global_sdr, si_sdr, si_sir_and_sar
from jaxsep.metrics.spectral import bleedless_and_fullness, spectral_distance

__all__ = [
    "BssEvalScores",
    "TrackSums",
    "bleedless_and_fullness",
    "bss_eval",
    "bss_eval_streamed",
    "global_sdr",
    "log_wmse",
    "museval_scores",
    "si_sdr",
    "si_sir_and_sar",
    "spectral_distance",
]
