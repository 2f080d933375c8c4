"""Draw docs/rule-choice.svg: kappa and the share found by threshold, and what was chosen.

From what `self_setting.py --out` wrote, in lab/results/self-setting.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "lab/results/self-setting"
SHOWN = {
    "demo0-scenes-sum": "small network after one epoch,\ngenerated scenes",
    "lite0-objects-sum": "EfficientNet-Lite0 (ImageNet labels),\nphotographs",
    "tiny-tiny-l2": "small network, Tiny-ImageNet,\nof its own training",
}


def draw(out: Path) -> None:
    """Draw the three side by side; the same results give the same bytes."""
    mpl.rcParams.update({"svg.hashsalt": "ccrop", "svg.fonttype": "none", "font.size": 9})
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = figure.subplots(1, len(SHOWN), sharey=True)
    for axes, (name, title) in zip(panels, SHOWN.items(), strict=True):
        lines = (RESULTS / f"{name}.jsonl").read_text().splitlines()
        _draw(axes, [json.loads(line) for line in lines], title)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(out, metadata={"Date": None})


def _draw(axes: Axes, rows: list[dict[str, Any]], title: str) -> None:
    tried = [row for row in rows if row["rule"] == "beside the mean"]
    (centre,) = (row["found"] for row in rows if row["rule"] == "central 80 %")
    p = [2 * row["value"] for row in tried]
    axes.plot(p, [row["kappa"] for row in tried], label="kappa")
    found = [row["found"] for row in tried]
    axes.plot(p, found, label="share of objects found (IoU ≥ 0.5)")
    spread = [row["freedom"] * max(row["kappa"], 0) ** 0.75 for row in tried]
    axes.plot(p, spread, label="freedom · kappa^¾, to fall below 1")
    axes.axhline(1, linewidth=0.8, color="black")
    axes.axhline(centre, linestyle="--", color="grey", label="found by the central 80 %")
    axes.axvline(2 * rows[-1]["value"], linestyle=":", color="black", label="p chosen")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("p")
    axes.set_ylim(0, 1.6)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    draw(ROOT / "docs/rule-choice.svg")
