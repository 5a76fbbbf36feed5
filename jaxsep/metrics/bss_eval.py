"""BSS Eval v4, computed here: SDR, ISR, SIR and SAR of stems, frame by frame, in float64 and in bounded memory.

museval's numbers without museval (which is in `museval_wrapper`), and much faster: correlations are summed over blocks,
the equations are factored once for all estimates, and energies are taken from spectra.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import scipy  # its parts load when they are first used: a quarter of a second that other metrics do without
from jaxtyping import Bool, Complex, Float
from numpy.typing import ArrayLike

from jaxsep.errors import AudioError
from jaxsep.metrics.frame_scores import METRICS, BssEvalScores, are_silent, as_stem_pairs, frame_lengths

# Length of the distortion filters, in samples at whatever rate.
TAPS = 512
# A transform of the correlations: blocks of 7681 samples beside 511 of what was before. As many at a time.
_N_FFT, _BLOCKS = 8192, 32
_BLOCK = _N_FFT - TAPS + 1

# References and estimates of the same stretch, one stretch after another, from the beginning at each call.
Stretches = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


def bss_eval(
    references: Mapping[str, ArrayLike],
    estimates: Mapping[str, ArrayLike],
    *,
    sample_rate: int,
    window_seconds: float = 1.0,
    hop_seconds: float = 1.0,
) -> BssEvalScores:
    """Scores the stems of one track by BSS Eval v4 (Stöter, Liutkus and Ito, LVA/ICA 2018), with museval's numbers.

    Each estimate is projected onto its own reference, and onto all references, delayed by 0 to 511 samples: filters
    fitted once on the whole track. What the first projection changes is spatial distortion, what the second adds is
    interference, and the rest is artefacts. The ratios are taken in frames. What remains of the track after the last
    whole frame does not count, and a track shorter than a frame is one frame. All but SDR therefore depend on the stems
    that are scored together; so does every median, because of the frames that silence takes out (see `BssEvalScores`).

    An estimate that is silent throughout is scored all the same, so that no system gains by giving out silence: its SDR
    and ISR need no filters (0 dB for zeros), SIR and SAR are not defined and NaN, and the other stems are scored as if
    it were not there, against all references. museval refuses such a track.

    Args:
        references: True sources by stem, each (time, channel).
        estimates: What a separation gave, for the same stems and of the same shapes.
        sample_rate: Of both, in Hz.
        window_seconds: Length of a frame.
        hop_seconds: From one frame's start to the next.

    Returns:
        Scores with the stems in the order of `references`. Beyond some 150 dB they are rounding.

    Raises:
        AudioError: A reference is silent throughout, for which BSS Eval has no answer (its channels cancelling each
            other counts as silence); shapes differ; a value is not finite.
        ConfigError: The stems differ, or a duration holds no sample.
    """
    stems, pairs = as_stem_pairs(references, estimates, silent_estimates=True)
    return bss_eval_streamed(
        lambda: iter([(pairs[0], pairs[1])]),
        stems,
        sample_rate=sample_rate,
        window_seconds=window_seconds,
        hop_seconds=hop_seconds,
    )


def bss_eval_streamed(
    stretches: Stretches,
    stems: Sequence[str],
    *,
    sample_rate: int,
    window_seconds: float = 1.0,
    hop_seconds: float = 1.0,
) -> BssEvalScores:
    """Scores a track that is read twice, stretch by stretch: memory is a matter of stems, channels and the window.

    Args:
        stretches: Opens the track: pairs of references and estimates (source, time, channel), finite and of any length.
            No reference may be silent throughout: see `bss_eval`, of which all else holds here too.
        stems: Names of the sources.
        sample_rate: Sample rate in Hz.
        window_seconds: Length of a frame.
        hop_seconds: From one frame's start to the next.

    Raises:
        ConfigError: A duration holds no sample.
        AudioError: There is no sample in the track.
    """
    window, hop = frame_lengths(window_seconds, hop_seconds, sample_rate)
    correlations = None
    silent = np.ones(len(stems), bool)
    for references, estimates in stretches():
        if correlations is None:
            correlations = _Correlations(len(references), references.shape[2])
        correlations.add(references, estimates)
        silent &= are_silent(estimates)
    if correlations is None:
        raise AudioError("there is no sample to score; give a track that has some")
    products = correlations.finish()
    sources, channels = len(stems), len(products) // len(stems)
    everything = list(range(len(products)))
    joint, condition = _filters(products, everything, [len(products) + each for each in everything])
    own = np.zeros((sources, channels, TAPS, channels))
    for source in range(sources):
        of_it = everything[source * channels : (source + 1) * channels]
        own[source], _ = _filters(products, of_it, [len(products) + each for each in of_it])
    del products, correlations
    scores = _FrameScores(joint, own, silent)
    rows = [scores.score(*frame) for frame in _frames(stretches(), window, hop)]
    sdr, isr, sir, sar = np.stack(rows, axis=-1)
    return BssEvalScores(
        tuple(stems), sdr, isr, sir, sar, window_seconds, hop_seconds, condition, tuple(scores.lost_frames.tolist())
    )


class _Correlations:
    """Sums of x[t - lag] y[t] over a track, for x of the references, y of references and estimates, lags 0 to 511.

    Blocks of the track are transformed beside the 511 samples before them, and their cross spectra added up.
    """

    def __init__(self, sources: int, channels: int) -> None:
        self._signals = np.zeros((2, sources, channels, TAPS - 1 + _BLOCKS * _BLOCK))  # references, then estimates
        self._filled = TAPS - 1  # begins with what was before the next block
        count = sources * channels
        self._spectra = np.zeros((_N_FFT // 2 + 1, count, 2 * count), np.complex128)

    def add(
        self, references: Float[np.ndarray, "source time channel"], estimates: Float[np.ndarray, "source time channel"]
    ) -> None:
        position = 0
        while position < references.shape[1]:
            start = self._filled
            self._filled = min(start + references.shape[1] - position, self._signals.shape[-1])
            stop = position + self._filled - start
            for part, whole in zip(self._signals, (references, estimates), strict=True):
                part[:, :, start : self._filled] = np.moveaxis(whole[:, position:stop], 2, 1)
            position = stop
            if self._filled == self._signals.shape[-1]:
                self._transform(_BLOCKS)
                self._signals[..., : TAPS - 1] = self._signals[..., -(TAPS - 1) :]
                self._filled = TAPS - 1

    def _transform(self, blocks: int) -> None:
        rows = self._signals.reshape(-1, self._signals.shape[-1])
        references = rows[: len(rows) // 2]
        with_history = np.lib.stride_tricks.sliding_window_view(references, _N_FFT, axis=1)[:, ::_BLOCK][:, :blocks]
        alone = np.lib.stride_tricks.sliding_window_view(rows[:, TAPS - 1 :], _BLOCK, axis=1)[:, ::_BLOCK][:, :blocks]
        delayed = scipy.fft.rfft(with_history.transpose(2, 0, 1), axis=0)  # (freq, reference, block)
        undelayed = scipy.fft.rfft(alone.transpose(2, 1, 0), n=_N_FFT, axis=0)  # (freq, block, signal)
        self._spectra += np.matmul(delayed.conj(), undelayed)

    def finish(self) -> Float[np.ndarray, "reference signal lag"]:
        blocks = -(-(self._filled - (TAPS - 1)) // _BLOCK)
        self._signals[..., self._filled :] = 0.0
        if blocks:
            self._transform(blocks)
        circular = scipy.fft.irfft(self._spectra, n=_N_FFT, axis=0).transpose(1, 2, 0)
        # A block stands 511 samples later beside its history than alone, so that lag 511 is at place 0.
        return np.concatenate([circular[:, :, -(TAPS - 1) :], circular[:, :, :1]], axis=2)


def _filters(
    products: Float[np.ndarray, "reference signal lag"], references: Sequence[int], estimates: Sequence[int]
) -> tuple[Float[np.ndarray, "chosen tap estimate"], float]:
    """Returns the filters of references that come nearest to the estimates, and the condition of their equations.

    museval's equations (with its epsilon), solved by Cholesky where that can be: half the work of its own way, which is
    taken where the matrix is not positive definite to rounding.
    """
    shape = (len(references), TAPS, len(estimates))
    right = products[np.ix_(references, estimates)].transpose(0, 2, 1).reshape(-1, len(estimates))

    def gram() -> np.ndarray:
        blocks = np.empty((len(references), TAPS, len(references), TAPS))
        for row, first in enumerate(references):
            for column, second in enumerate(references):
                # Place 511 + q - p holds the product of the first delayed by p with the second delayed by q.
                lags = np.concatenate([products[first, second, ::-1], products[second, first, 1:]])
                blocks[row, :, column] = np.lib.stride_tricks.sliding_window_view(lags, TAPS)[::-1]
        return blocks.reshape(len(right), len(right))

    matrix = gram()
    matrix.flat[:: len(right) + 1] += np.finfo(np.float64).eps
    norm = scipy.linalg.lapack.dlange("1", matrix.T)
    try:
        factor = scipy.linalg.cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
        inverse_condition, _ = scipy.linalg.lapack.dpocon(factor[0], norm, uplo="L")
        solved = scipy.linalg.cho_solve(factor, right, check_finite=False)
        return solved.reshape(shape), 1 / inverse_condition if inverse_condition else math.inf
    except np.linalg.LinAlgError:
        matrix = gram()
    try:
        return np.linalg.solve(matrix + np.finfo(np.float64).eps * np.eye(len(right)), right).reshape(shape), math.inf
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(matrix, right)[0].reshape(shape), math.inf


def _frames(
    stretches: Iterator[tuple[np.ndarray, np.ndarray]], window: int, hop: int
) -> Iterator[tuple[Float[np.ndarray, "source time channel"], Float[np.ndarray, "source time channel"]]]:
    """Yields references and estimates of each frame by museval's rule: whole ones, or one that is the short track."""
    pending: tuple[np.ndarray, np.ndarray] | None = None
    skip, yielded = 0, False
    for references, estimates in stretches:
        skipped = min(skip, references.shape[1])
        skip -= skipped
        new = (references[:, skipped:], estimates[:, skipped:])
        if pending is None or not pending[0].shape[1]:
            pending = new
        else:
            pending = (np.concatenate([pending[0], new[0]], axis=1), np.concatenate([pending[1], new[1]], axis=1))
        while pending[0].shape[1] >= window:
            yield pending[0][:, :window], pending[1][:, :window]
            yielded = True
            skip = max(hop - pending[0].shape[1], 0)
            pending = (pending[0][:, hop:], pending[1][:, hop:])
    if not yielded and pending is not None:
        yield pending


class _FrameScores:
    """The four ratios of one frame after another.

    A frame is filtered by itself, with its tail of 511 samples, as in museval. The transform is long enough for that,
    so that energies are those of the spectra (Parseval) and nothing is transformed back.
    """

    def __init__(
        self,
        joint: Float[np.ndarray, "reference tap estimate"],
        own: Float[np.ndarray, "source channel tap out"],
        silent: Bool[np.ndarray, " source"],
    ) -> None:
        self._joint, self._own, self._silent = joint, own, silent
        self._n_fft = 0
        self.lost_frames = np.zeros(len(silent), int)

    def _prepare(self, length: int) -> None:
        """Transforms the filters for frames of a length."""
        n_fft = scipy.fft.next_fast_len(length + TAPS - 1, real=True)
        if n_fft == self._n_fft:
            return
        self._n_fft = n_fft
        sources, channels = self._own.shape[:2]
        joint = self._joint.transpose(2, 0, 1)  # (estimate, reference, tap)
        self._joint_spectra = scipy.fft.rfft(joint, n=n_fft, axis=-1).reshape(sources, channels, sources * channels, -1)
        self._own_spectra = scipy.fft.rfft(self._own.transpose(0, 3, 1, 2), n=n_fft, axis=-1)
        # Each bin stands for itself and its mirror image, but for those that are their own.
        self._scale = np.full(n_fft // 2 + 1, np.sqrt(2.0 / n_fft))
        self._scale[0] /= np.sqrt(2)
        if n_fft % 2 == 0:
            self._scale[-1] /= np.sqrt(2)

    def score(
        self,
        references: Float[np.ndarray, "source time channel"],
        estimates: Float[np.ndarray, "source time channel"],
    ) -> Float[np.ndarray, "metric source"]:
        if are_silent(references).any():
            return np.full((len(METRICS), len(references)), np.nan)
        # An estimate that is silent throughout must not take every frame from the others.
        if (lost := are_silent(estimates) & ~self._silent).any():
            self.lost_frames += lost
            return np.full((len(METRICS), len(references)), np.nan)
        self._prepare(references.shape[1])
        true, estimated = (
            scipy.fft.rfft(np.moveaxis(part, 2, 1).astype(np.float64, copy=False), n=self._n_fft, axis=-1) * self._scale
            for part in (references, estimates)
        )
        on_own = np.zeros_like(true)
        on_all = np.zeros_like(true)
        signals = true.reshape(-1, true.shape[-1])
        product = np.empty_like(signals[0])
        for source, channel in np.ndindex(true.shape[:2]):
            for spectrum, signal in zip(self._own_spectra[source, channel], true[source], strict=True):
                on_own[source, channel] += np.multiply(spectrum, signal, out=product)
            for spectrum, signal in zip(self._joint_spectra[source, channel], signals, strict=True):
                on_all[source, channel] += np.multiply(spectrum, signal, out=product)
        spatial, interference, artefacts = on_own - true, on_all - on_own, estimated - on_all
        ratios = np.stack(
            [
                # The parts added up again, and not the difference at once: of a perfect estimate museval has rounding.
                _decibels(_energies(true), _energies(spatial + interference + artefacts)),
                _decibels(_energies(true), _energies(spatial)),
                _decibels(_energies(on_own), _energies(interference)),
                _decibels(_energies(on_all), _energies(artefacts)),
            ]
        )
        ratios[2:, self._silent] = np.nan
        return ratios


def _energies(spectra: Complex[np.ndarray, "source channel freq"]) -> Float[np.ndarray, " source"]:
    return np.array([np.vdot(source, source).real for source in spectra])


def _decibels(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """As in museval, infinite wherever nothing is below the line."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.inf, 10 * np.log10(numerator / denominator))
