"""Pictures of a separation by matplotlib: waveforms, spectrograms, masks, and SDR along the track.

Arrays in, figures out; matplotlib is imported when a figure is made. What is read is the command line's affair.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jaxsep.errors import ConfigError, JaxsepError, nearest
from jaxsep.metrics.sdr import global_sdr
from jaxsep.typing import HostWaveform

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What is shown below the loudest point of all spectrograms of a figure.
RANGE_DB = 90.0
_N_FFT, _LARGEST_WIDTH = 2048, 1600
_TRUE, _ESTIMATED, _MIXTURE = "#1c2430", "#0072b2", "#8a8a8a"

Stems = Mapping[str, HostWaveform]


def plot_waveforms(mixture: HostWaveform, estimates: Stems, truth: Stems, sample_rate: int, start: float) -> "Figure":
    """Draws the mixture and each stem over time, the outline of the estimate over the truth where that is known.

    Each row has a scale of its own, which its music fills; single peaks far beyond the others are cut.

    Args:
        mixture: (time, channel), full scale at 1.
        estimates: Stems of the same shape, by name.
        truth: The same of the true sources; may be empty.
        sample_rate: Sample rate of all waveforms in Hz.
        start: Where in the track they begin, in seconds.
    """
    rows = ["mixture", *estimates]
    figure, axes = _figure(len(rows), 1, height=1.5)
    for axis, name in zip(axes[:, 0], rows, strict=True):
        if name == "mixture":
            tops = [_envelope(axis, mixture, sample_rate, start, _MIXTURE, "mixture")]
        else:
            tops = [_envelope(axis, truth[name], sample_rate, start, _TRUE, "true source")] if name in truth else []
            tops.append(
                _envelope(axis, estimates[name], sample_rate, start, _ESTIMATED, "estimate", is_outline=name in truth)
            )
        top = max(tops) or 1.0
        axis.set_ylim(-1.05 * top, 1.05 * top)
        axis.set_ylabel(f"{name}\namplitude")
        axis.grid(alpha=0.25)
        axis.margins(x=0)
    axes[1 if len(rows) > 1 else 0, 0].legend(loc="upper right", fontsize="small", ncols=2)
    axes[-1, 0].set_xlabel("time in s")
    axes[0, 0].set_title("Waveforms: largest and smallest sample of all channels, each row on its own scale")
    return figure


def plot_spectrograms(
    mixture: HostWaveform, estimates: Stems, truth: Stems, sample_rate: int, start: float
) -> "Figure":
    """Draws the levels of the mixture, and of each estimate beside its truth where that is known, on one scale.

    Arguments are those of `plot_waveforms`.
    """
    columns = 2 if truth else 1
    figure, axes = _figure(len(estimates) + 1, columns, height=2.2)
    pictures: list[tuple[Any, str, np.ndarray]] = [(axes[0, 0], "mixture", _levels_db(mixture))]
    for row, (name, estimate) in zip(axes[1:], estimates.items(), strict=True):
        pictures.append((row[0], f"{name}, estimate", _levels_db(estimate)))
        if name in truth:
            pictures.append((row[1], f"{name}, true source", _levels_db(truth[name])))
    top = max(levels.max() for _, _, levels in pictures)
    image: Any = None
    for axis, title, levels in pictures:
        image = _picture(axis, levels - top, mixture, sample_rate, start, title, cmap="magma", vmin=-RANGE_DB, vmax=0.0)
    for axis in set(axes.flat) - {axis for axis, _, _ in pictures}:
        axis.set_axis_off()
    figure.colorbar(image, ax=axes, label="level in dB, 0 at the loudest point of all", shrink=0.8, pad=0.02)
    _label_time(axes, pictures)
    return figure


def plot_masks(mixture: HostWaveform, estimates: Stems, truth: Stems, sample_rate: int, start: float) -> "Figure":
    """Draws the share of each stem in the magnitudes of all stems, of the estimates beside that of the truth.

    Arguments are those of `plot_waveforms`. The masks are those that the stems amount to, whatever made them.
    """
    columns = 2 if truth else 1
    figure, axes = _figure(len(estimates), columns, height=2.2)
    pictures = []
    for column, (stems, kind) in enumerate(((estimates, "mask of the estimate"), (truth, "ideal mask"))[:columns]):
        magnitudes = {name: 10 ** (_levels_db(waveform) / 20) for name, waveform in stems.items()}
        total = np.sum(list(magnitudes.values()), axis=0)
        # Of silence there are no shares.
        total[total < total.max(initial=0.0) * 10 ** (-RANGE_DB / 20)] = np.nan
        for row, name in enumerate(estimates):
            if name in magnitudes:
                pictures.append((axes[row, column], f"{name}, {kind}", magnitudes[name] / total))
    image: Any = None
    for axis, title, share in pictures:
        image = _picture(axis, share, mixture, sample_rate, start, title, cmap="viridis", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, label="share of the magnitude of all stems (grey: silence)", shrink=0.8, pad=0.02)
    _label_time(axes, pictures)
    return figure


def plot_sdr(mixture: HostWaveform, estimates: Stems, truth: Stems, sample_rate: int, start: float) -> "Figure":
    """Draws the SDR of each second of each stem, beside that of the mixture taken for the stem.

    Arguments are those of `plot_waveforms`. Seconds in which the true source is silent have no point.

    Raises:
        ConfigError: The truth is not known.
    """
    if not truth:
        raise ConfigError("The SDR along the track needs the true sources; give them with --truth.")
    named = [name for name in estimates if name in truth]
    figure, axes = _figure(len(named), 1, height=1.9)
    for axis, name in zip(axes[:, 0], named, strict=True):
        times, ours = sdr_by_second(truth[name], estimates[name], sample_rate)
        _, before = sdr_by_second(truth[name], mixture, sample_rate)
        whole = float(global_sdr(truth[name], estimates[name]))
        axis.plot(start + times, before, "o-", color=_MIXTURE, markersize=3, linewidth=1, label="mixture")
        axis.plot(start + times, ours, "o-", color=_ESTIMATED, markersize=4, label="estimate")
        axis.axhline(whole, color=_ESTIMATED, linestyle="--", linewidth=1, label=f"estimate, all of it: {whole:.1f} dB")
        axis.set_xlim(start, start + len(mixture) / sample_rate)
        axis.set_ylabel(f"{name}\nSDR in dB")
        axis.grid(alpha=0.25)
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small")
    axes[-1, 0].set_xlabel("time in s")
    axes[0, 0].set_title("SDR of each second")
    return figure


PLOTS: dict[str, Callable[[HostWaveform, Stems, Stems, int, float], "Figure"]] = {
    "waveforms": plot_waveforms,
    "spectrograms": plot_spectrograms,
    "masks": plot_masks,
    "sdr": plot_sdr,
}


def make_plot(kind: str, *arguments: Any) -> "Figure":
    """Draws one of `PLOTS`.

    Args:
        kind: Its name.
        *arguments: As of `plot_waveforms`.

    Raises:
        ConfigError: There is no such plot, or it needs the truth.
        JaxsepError: matplotlib is not installed.
    """
    if kind not in PLOTS:
        raise ConfigError(f"There is no plot '{kind}'.{nearest(kind, PLOTS)}")
    return PLOTS[kind](*arguments)


def require_matplotlib() -> None:
    """Sees that pictures can be made.

    Raises:
        JaxsepError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise JaxsepError("Plots need matplotlib, which is not installed: pip install 'jaxsep[plots]'.") from None


def sdr_by_second(
    truth: HostWaveform, estimate: HostWaveform, sample_rate: int
) -> tuple[Float[np.ndarray, " frame"], Float[np.ndarray, " frame"]]:
    """Returns the middle of each whole second, and the plain SDR in it: NaN where the truth is silent.

    A waveform shorter than a second is one frame.
    """
    length = min(sample_rate, len(truth))
    count = len(truth) // length
    true, estimated = (
        waveform[: count * length].reshape(count, length, -1).astype(np.float64) for waveform in (truth, estimate)
    )
    scores = np.array(global_sdr(true, estimated, eps=0.0))
    scores[~np.any(true, axis=(1, 2))] = np.nan
    return (np.arange(count) + 0.5) * length / sample_rate, scores


def _figure(rows: int, columns: int, *, height: float) -> "tuple[Figure, np.ndarray]":
    require_matplotlib()
    from matplotlib.figure import Figure

    # Without pyplot: no window, no state of the process.
    figure = Figure(figsize=(5.5 * columns + 3.5, height * rows + 0.9), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=True)


def _envelope(
    axis: "Axes",
    waveform: HostWaveform,
    sample_rate: int,
    start: float,
    colour: str,
    label: str,
    *,
    is_outline: bool = False,
) -> float:
    """Draws the smallest and the largest sample of each stretch as wide as a pixel, filled between or as two lines.

    Returns:
        The height that shows it: the largest sample, or less where few stretches are much louder than all others.
    """
    edges = np.unique(np.linspace(0, len(waveform), min(len(waveform), _LARGEST_WIDTH) + 1).astype(int))
    low = np.minimum.reduceat(waveform.min(axis=1), edges[:-1])
    high = np.maximum.reduceat(waveform.max(axis=1), edges[:-1])
    times = start + (edges[:-1] + edges[1:]) / 2 / sample_rate
    if is_outline:
        axis.plot(times, high, color=colour, linewidth=0.8, label=label)
        axis.plot(times, low, color=colour, linewidth=0.8)
    else:
        axis.fill_between(times, low, high, color=colour, alpha=0.45, linewidth=0.3, label=label)
    peaks = np.maximum(high, -low)
    return float(min(peaks.max(), 1.5 * np.percentile(peaks, 99)) or peaks.max())


def _picture(
    axis: "Axes", values: np.ndarray, mixture: HostWaveform, sample_rate: int, start: float, title: str, **options: Any
) -> Any:
    extent = (start, start + len(mixture) / sample_rate, 0.0, sample_rate / 2000)
    axis.set_facecolor("#d4d8dd")
    image = axis.imshow(values.T, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **options)
    # Half of what is heard lies below 1 kHz, and is to be seen.
    axis.set_yscale("function", functions=(_to_mel, _from_mel))
    ticks = [tick for tick in (0.1, 0.5, 1, 2, 4, 8, 16) if tick < sample_rate / 2000]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ylabel("frequency in kHz")
    axis.set_title(title, fontsize="medium")
    return image


def _label_time(axes: np.ndarray, pictures: list[tuple[Any, str, np.ndarray]]) -> None:
    drawn = {axis for axis, _, _ in pictures}
    for column in axes.T:
        last = [axis for axis in column if axis in drawn][-1]
        last.set_xlabel("time in s")
        last.tick_params(labelbottom=True)


def _to_mel(khz: np.ndarray) -> np.ndarray:
    return 2595 * np.log10(1 + np.maximum(khz, 0) / 0.7)


def _from_mel(mel: np.ndarray) -> np.ndarray:
    return 0.7 * (10 ** (mel / 2595) - 1)


def _levels_db(waveform: HostWaveform) -> Float[np.ndarray, "frame freq"]:
    """The power in each frame and bin in dB, channels averaged; no more frames than a picture has columns."""
    padded = np.pad(waveform, [(0, max(_N_FFT - len(waveform), 0)), (0, 0)])
    frames = min(1 + (len(padded) - _N_FFT) // (_N_FFT // 4), _LARGEST_WIDTH)
    starts = np.linspace(0, len(padded) - _N_FFT, frames).astype(int)
    window = np.hanning(_N_FFT + 1)[:-1, None] * (2 / _N_FFT)
    spectrum = np.stack([np.fft.rfft(padded[at : at + _N_FFT] * window, axis=0) for at in starts])
    return 10 * np.log10(np.square(np.abs(spectrum)).mean(axis=2) + 1e-14)
