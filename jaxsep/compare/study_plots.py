"""Pictures of a study: how the losses fell, and the paired differences beside what counts as none."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxsep.evaluation.palette import colours
from jaxsep.evaluation.plots import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Lines over each other are seen by their dashes.
_DASHES = ("-", "--", ":", "-.", (0, (1, 3)))
# The loss is averaged over so many stretches of the run.
_STRETCHES = 60


def plot_losses(runs: Sequence[dict[str, Any]], frameworks: Sequence[str]) -> "Figure":
    """Draws the loss of each framework over steps: the mean over seeds, and the band from the least to the largest.

    Args:
        runs: That were made.
        frameworks: In their order.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axis = figure.subplots()
    for number, framework in enumerate(frameworks):
        losses = np.array([run["losses"] for run in runs if run["framework"] == framework])
        if not losses.size:
            continue
        stretches = np.array_split(np.arange(losses.shape[1]), min(_STRETCHES, losses.shape[1]))
        steps = [part.mean() + 1 for part in stretches]
        smoothed = np.stack([losses[:, part].mean(axis=1) for part in stretches], axis=1)
        colour = colours(len(frameworks))[number]
        axis.fill_between(steps, smoothed.min(axis=0), smoothed.max(axis=0), color=colour, alpha=0.15, linewidth=0)
        dashes = _DASHES[number % len(_DASHES)]
        axis.plot(
            steps, smoothed.mean(axis=0), color=colour, linestyle=dashes, label=f"{framework}, {len(losses)} runs"
        )
    axis.set_xlabel("step")
    axis.set_ylabel("mean absolute error of magnitudes")
    axis.set_yscale("log")
    axis.set_title("Loss: mean over seeds, band from the least to the largest")
    axis.grid(alpha=0.25, which="both")
    if axis.lines:
        axis.legend()
    return figure


def plot_differences(summary: dict[str, Any]) -> "Figure":
    """Draws the paired differences of each comparison, their mean with its 95 % interval, and the margin.

    Args:
        summary: Of `jaxsep.compare.study_report.summarize`.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    comparisons = summary["comparisons"]
    margin = summary["config"]["margin_db"]
    figure = Figure(figsize=(8, 1.4 + 0.9 * len(comparisons)), layout="constrained")
    axis = figure.subplots()
    axis.axvspan(-margin, margin, color="#009e73", alpha=0.12, linewidth=0, label=f"margin of ±{margin:g} dB")
    axis.axvline(0, color="#8a8a8a", linewidth=1)
    for row, each in enumerate(comparisons):
        if "differences" not in each:
            continue
        count = len(each["differences"])
        axis.plot(each["differences"], [row + 0.22] * count, "o", color="#8a8a8a", markersize=4, alpha=0.8)
        if each["low"] is not None:
            axis.plot([each["low"], each["high"]], [row, row], color="#0072b2", linewidth=3, solid_capstyle="butt")
        axis.plot([each["mean"]], [row], "D", color="#0072b2", markersize=7)
    axis.plot([], [], "D-", color="#0072b2", label="mean and its 95 % interval")
    axis.plot([], [], "o", color="#8a8a8a", label=f"each {summary['unit']}")
    axis.set_yticks(range(len(comparisons)), [f"{each['framework']}\nless {each['against']}" for each in comparisons])
    axis.set_ylim(-0.5, len(comparisons) - 0.3)
    first = comparisons[0]
    axis.set_xlabel(f"difference in dB of {first['stem']} {first['metric'].upper()}")
    axis.set_title("Paired differences")
    axis.grid(alpha=0.25, axis="x")
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize="small")
    return figure
