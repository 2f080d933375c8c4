"""Draw the pictures of README and docs/concepts.md from a folder that `ccrop demo` has left.

python -m benchmarks.concept_pictures demo
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from numpy.typing import NDArray
from PIL import Image, ImageOps

import ccrop_pipeline as ccrop
from ccrop_pipeline.boxset import iou
from ccrop_pipeline.crops import UNIFORMS_PER_WINDOW, CropParams, sample_windows
from ccrop_pipeline.images import decode, true_boxes
from ccrop_pipeline.probes import embed, labelled
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.report import contact_sheet as draw_contact_sheet

OUT = Path(__file__).parents[1] / "docs/pictures"
BOX, TRUTH, WINDOW, GREY = "#e4453a", "#2fa84f", "#3b6fd4", "#8a939c"
KEYS = (3, 11)  # of the images shown, by position


def main(demo: Path) -> None:
    """Draw all six; the same folder gives the same bytes."""
    mpl.rcParams.update({"svg.hashsalt": "ccrop", "svg.fonttype": "none", "font.size": 9})
    OUT.mkdir(exist_ok=True)
    pictures = {
        "box-set": box_set(),
        "plan": plan(),
        "box-rule": box_rule(demo),
        "window-rule": window_rule(),
        "probes": probes(demo),
    }
    for name, figure in pictures.items():
        figure.savefig(OUT / f"{name}.svg", metadata={"Date": None})
    sheet = contact_sheet(demo)
    sheet.save(OUT / "contact-sheet.jpg", quality=88, optimize=True)


def contact_sheet(demo: Path) -> Image.Image:
    """Return the first images of the demo with heatmaps, boxes and views, on white."""
    boxes = ccrop.BoxSet.open(sorted((demo / "run/boxes").iterdir())[-1])
    sheet = draw_contact_sheet(
        boxes, ccrop.open_source(demo / "data/train"), load_recipe("demo").crop, count=6, across=2
    )
    return ImageOps.expand(sheet, border=12, fill="white")


def box_set() -> Figure:
    """Draw data shards, and the shards of a box set beside them."""
    figure = Figure(figsize=(6.6, 2.6), layout="constrained")
    axes = _blank(figure.subplots())
    axes.set(xlim=(0, 6.6), ylim=(0, 2.6))
    for row in range(3):
        y = 1.75 - 0.6 * row
        _field(axes, (0.1, y), (2.6, 0.45), f"train-{row:06}.tar", "#dfe8f7")
        _field(axes, (3.9, y), (2.6, 0.45), f"train-{row:06}.parquet", "#fbe3d6")
        _arrow(axes, (2.75, y + 0.22), (3.85, y + 0.22))
    axes.text(0.1, 2.32, "images: keys, bytes, labels", weight="bold")
    axes.text(3.9, 2.32, "box set: keys, boxes, heatmaps", weight="bold")
    axes.text(3.3, 2.05, "model", ha="center", va="center", color=GREY)
    _field(axes, (3.9, 0.02), (2.6, 0.4), "manifest.json, written last", "#f1f1f1")
    return figure


def plan() -> Figure:
    """Draw the stages of a training of 100 epochs with the paper's refreshes."""
    figure = Figure(figsize=(8, 1.5), layout="constrained")
    axes = _blank(figure.subplots())
    axes.set(xlim=(-2, 106), ylim=(-0.75, 1.35))
    axes.add_patch(Rectangle((0, 0), 20, 0.6, color="#cdd3da"))
    axes.text(10, 0.3, "warm-up:\nrandom crops", ha="center", va="center")
    for start in (20, 40, 60, 80):
        axes.add_patch(Rectangle((start, 0), 19.6, 0.6, color="#fbd2bd"))
        axes.text(start + 10, 0.3, f"boxes of epoch {start}", ha="center", va="center")
        axes.plot([start, start], [-0.1, 0.9], color=BOX)
        axes.text(start, 1.0, "refresh", ha="center", color=BOX)
    for epoch in range(0, 101, 20):
        axes.text(epoch, -0.35, str(epoch), ha="center", color=GREY)
    axes.text(50, -0.7, "epochs", ha="center", color=GREY)
    return figure


def box_rule(demo: Path) -> Figure:
    """Draw images, their heatmaps, the cells above the threshold, and the boxes."""
    found = ccrop.BoxSet.open(sorted((demo / "run/boxes").iterdir())[-1])
    _, table = next(iter(found.tables()))
    chosen = found.manifest.provenance.localizer
    assert chosen is not None
    assert table.heatmaps is not None
    source = ccrop.open_source(demo / "data/train")
    samples = list(source.read(source.shards[0]))
    figure = Figure(figsize=(8, 4.3), layout="constrained")
    panels = figure.subplots(len(KEYS), 4)
    for row, at in zip(panels, KEYS, strict=True):
        heat = table.heatmaps[at].astype(np.float32)
        cut = chosen.threshold + chosen.mean_share * float(heat.mean())
        for axes, picture in zip(
            row,
            (decode(samples[at].image), heat, heat > cut, decode(samples[at].image)),
            strict=True,
        ):
            _blank(axes).imshow(picture, extent=(0, 1, 1, 0), cmap="inferno")
        _outline(row[3], table.boxes[at], BOX)
        _outline(row[3], true_boxes(samples[at].annotation)[0], TRUTH)
    for axes, title in zip(
        panels[0],
        ("image", "heatmap", "above the threshold", "box; the true one in green"),
        strict=True,
    ):
        axes.set_title(title, fontsize=9)
    return figure


def window_rule() -> Figure:
    """Draw windows of the three rules for a box in a corner."""
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    box, draws = np.array([0.05, 0.1, 0.4, 0.5]), 4000
    for axes, rule in zip(figure.subplots(1, 3), ("paper", "official", "overlap"), strict=True):
        first, second = (_windows(box, rule, draws, seed) for seed in (0, 1))
        shared = np.mean([iou(a, b[None])[0] for a, b in zip(first, second, strict=True)])
        _blank(axes).set(xlim=(-0.01, 1.01), ylim=(1.01, -0.01), aspect="equal")
        _outline(axes, np.array([0, 0, 1, 1]), "black")
        for window in first[:14]:
            _outline(axes, window, WINDOW, width=0.6)
        centres = (first[:200, :2] + first[:200, 2:]) / 2
        axes.plot(*centres.T, ".", markersize=1.5, color=WINDOW)
        _outline(axes, box, BOX)
        axes.set_title(f"{rule}: IoU of a pair {shared:.2f}", fontsize=9)
    return figure


def probes(demo: Path) -> Figure:
    """Draw the features of some images in two dimensions, and the neighbours of one."""
    source = ccrop.open_source(demo / "data/test")
    encoder = ccrop.open_encoder(demo / "run")
    images = labelled(source.index(), source.location)
    found = embed(images, encoder)
    values = found.values.numpy() / np.linalg.norm(found.values.numpy(), axis=1, keepdims=True)
    centred = values - values.mean(0)
    flat = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    query = int(np.argmin(np.abs(flat - np.median(flat, axis=0)).sum(1)))
    nearest = np.argsort(-(values @ values[query]))[1:9]
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = _blank(figure.subplots())
    axes.scatter(*flat.T, c=found.labels.numpy(), cmap="tab10", s=9, linewidths=0)
    for other in nearest:
        axes.plot(*flat[[query, other]].T, color=GREY, linewidth=0.8)
    axes.plot(*flat[query], "*", markersize=12, color="black")
    axes.set_title(
        "features in two dimensions, coloured by class;\nthe nearest of one image vote", fontsize=9
    )
    return figure


def _windows(box: NDArray[np.float64], rule: str, count: int, seed: int) -> NDArray[np.float64]:
    side = 224
    uniforms = np.random.default_rng(seed).random((count, UNIFORMS_PER_WINDOW))
    sizes = np.full((count, 2), side)
    params = CropParams(rule=rule, alpha=0.6)  # type: ignore[arg-type]
    top, left, height, width = sample_windows(np.tile(box, (count, 1)), sizes, uniforms, params).T
    return np.stack([left, top, left + width, top + height], axis=1) / side


def _blank(axes: Axes) -> Axes:
    axes.set_axis_off()
    return axes


def _outline(axes: Axes, box: NDArray[np.floating], colour: str, *, width: float = 2) -> None:
    x, y, right, bottom = (float(edge) for edge in box)
    axes.add_patch(
        Rectangle((x, y), right - x, bottom - y, fill=False, edgecolor=colour, linewidth=width)
    )


def _field(
    axes: Axes, at: tuple[float, float], size: tuple[float, float], text: str, colour: str
) -> None:
    axes.add_patch(Rectangle(at, *size, facecolor=colour, edgecolor=GREY))
    axes.text(at[0] + size[0] / 2, at[1] + size[1] / 2, text, ha="center", va="center")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color=GREY))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
