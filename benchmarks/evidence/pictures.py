"""Learning curves as pictures."""

from pathlib import Path
from statistics import mean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.evidence.arms import Study
from benchmarks.evidence.figures import by_seed
from benchmarks.evidence.results import Result

SHOWN = (
    "random",
    "official",
    "paper",
    "overlap",
    "suppression",
    "centre",
    "shuffled",
    "official-true",
    "four-refreshes",
    "true",
    "true-shuffled",
    "self-set",
)


def learning_curves(study: Study, results: list[Result], out: Path) -> None:
    """Draw loss and kNN accuracy by epoch, mean over seeds, of the main arms.

    Args:
        study: Whose arms they are.
        results: Its results.
        out: SVG file; the same results give the same bytes with the same matplotlib.
    """
    mpl.rcParams.update({"svg.hashsalt": "ccrop", "svg.fonttype": "none"})
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in [arm for arm in SHOWN if arm in study.arms] or study.arms:
        runs = list(by_seed(results, results[0]["study"], name).values())
        if runs:
            title = study.arms[name].title.replace("`", "")
            _line(left, [run["curve"] for run in runs], "loss", title, 1)
            _line(right, [run["probes"] for run in runs], "knn", title, 100)
    used = results[0]["probes_on"]
    _label(left, "loss of training")
    _label(right, f"kNN, % ({used['bank']} + {used['queries']} images)")
    lines, titles = right.get_legend_handles_labels()
    figure.legend(lines, titles, loc="outside right center", fontsize="small", frameon=False)
    figure.savefig(out, metadata={"Date": None})


def _line(
    axes: Axes, curves: list[list[dict[str, float]]], name: str, title: str, factor: float
) -> None:
    """Draw the mean of curves over the epochs that all of them have."""
    by_epoch = [{point["epoch"]: factor * point[name] for point in curve} for curve in curves]
    epochs = sorted(set.intersection(*map(set, by_epoch)))
    values = [mean(curve[epoch] for curve in by_epoch) for epoch in epochs]
    axes.plot(epochs, values, marker="o", markersize=3, linewidth=1.2, label=title)


def _label(axes: Axes, what: str) -> None:
    axes.set_xlabel("epochs")
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)
