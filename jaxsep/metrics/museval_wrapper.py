"""BSS Eval v4 by museval itself: what our own, in `bss_eval`, is held against.

museval does the arithmetic; here is only its loading. The checks before it and the result are in `frame_scores`.
"""

import functools
import importlib.util
import pathlib
import types
from collections.abc import Mapping

from numpy.typing import ArrayLike

from jaxsep.errors import JaxsepError
from jaxsep.metrics.frame_scores import BssEvalScores, as_stem_pairs, frame_lengths


def museval_scores(
    references: Mapping[str, ArrayLike],
    estimates: Mapping[str, ArrayLike],
    *,
    sample_rate: int,
    window_seconds: float = 1.0,
    hop_seconds: float = 1.0,
) -> BssEvalScores:
    """Scores the stems of one track by BSS Eval v4 (Stöter, Liutkus and Ito, LVA/ICA 2018).

    The scores are taken in frames. What remains of the track after the last whole frame does not count, and a track
    shorter than a frame is one frame. SDR is the plain ratio of the reference to the difference. ISR, SIR and SAR
    divide that difference by filters of 512 taps, fitted once on the whole track, so they depend on the stems that
    are scored together; so does every median, because of the frames that silence takes out (see `BssEvalScores`).

    Args:
        references: True sources by stem, each (time, channel).
        estimates: What a separation gave, for the same stems and of the same shapes. museval itself would pad or cut;
            here a length that differs is an error, because it is seldom the length alone that is wrong then.
        sample_rate: Of both, in Hz.
        window_seconds: Length of a frame.
        hop_seconds: From one frame's start to the next.

    Returns:
        Scores with the stems in the order of `references`.

    Raises:
        AudioError: A stem of the references or the estimates is silent throughout, for which BSS Eval has no answer
            (its channels cancelling each other counts as silence to museval); shapes differ; a value is not finite.
        ConfigError: The stems differ, or a duration holds no sample.
        JaxsepError: museval is not installed.
    """
    stems, (true, estimated) = as_stem_pairs(references, estimates)
    window, hop = frame_lengths(window_seconds, hop_seconds, sample_rate)
    sdr, isr, sir, sar, _ = _load_museval_metrics().bss_eval(
        true,
        estimated,
        window=window,
        hop=hop,
        compute_permutation=False,
        framewise_filters=False,
        bsseval_sources_version=False,
    )
    return BssEvalScores(stems, sdr, isr, sir, sar, window_seconds, hop_seconds)


def require_museval() -> None:
    """Sees that museval can be loaded.

    Raises:
        JaxsepError: museval or scipy is not installed.
    """
    _load_museval_metrics()


@functools.cache
def _load_museval_metrics() -> types.ModuleType:
    """Loads museval's file of metrics without the package around it.

    The package imports musdb and stempeg, and stempeg raises where the programs ffmpeg and ffprobe are missing; the
    metrics need numpy and scipy alone.

    Raises:
        JaxsepError: museval or scipy is not installed.
    """
    package = importlib.util.find_spec("museval")
    if package is None or not package.submodule_search_locations:
        raise JaxsepError("BSS Eval scores need museval, which is not installed: pip install 'jaxsep[evaluate]'")
    path = pathlib.Path(package.submodule_search_locations[0]) / "metrics.py"
    # museval 0.4.1 catches a singular matrix under a name that numpy 2.4 no longer has, and would die of that name
    # instead.
    source = path.read_text(encoding="utf-8").replace("np.linalg.linalg.LinAlgError", "np.linalg.LinAlgError")
    module = types.ModuleType("museval_metrics")
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except ImportError as error:
        raise JaxsepError(f"museval cannot be loaded ({error}): pip install 'jaxsep[evaluate]'") from error
    return module
