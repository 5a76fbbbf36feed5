"""Scores of estimates against true sources: host arrays in, numbers out.

No tracks, no files, no tables: those are in `jaxsep.evaluation`. `jaxsep.metrics.bss_eval` is the function, not the
module that it is from.
"""

from jaxsep.metrics.bss_eval import bss_eval, bss_eval_streamed
from jaxsep.metrics.frame_scores import BssEvalScores
from jaxsep.metrics.museval_wrapper import museval_scores
from jaxsep.metrics.sdr import TrackSums, global_sdr, si_sdr

__all__ = [
    "BssEvalScores",
    "TrackSums",
    "bss_eval",
    "bss_eval_streamed",
    "global_sdr",
    "museval_scores",
    "si_sdr",
]
