"""How much boxes and heatmaps differ from image to image, on a sample of a box set."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset import UNREADABLE, BoxSet, BoxTable, iou
from ccrop_pipeline.crops.randomness import CHOICE, uniforms

_SAMPLE = 4096
_SHARDS = 8


@dataclass(frozen=True, eq=False)
class Rows:
    """Readable rows of a box set, from shards spread over it.

    Attributes:
        boxes: float32 `(n, 4)`.
        drawn: float32 `(n, 4)`: where rows have choices, one of them; else the boxes.
        sizes: Width and height of the images, `(n, 2)`; 0 where not known.
        heatmaps: float16 `(n, h, w)`; None without.
        image_hash: Of the images, uint64 `(n,)`.
    """

    boxes: NDArray[np.float32]
    drawn: NDArray[np.float32]
    sizes: NDArray[np.uint32]
    heatmaps: NDArray[np.float16] | None
    image_hash: NDArray[np.uint64]

    @property
    def different(self) -> int:
        """Number of images of which none is a copy of another."""
        return len(np.unique(self.image_hash))


@dataclass(frozen=True)
class Spread:
    """How much boxes differ from one box for all.

    Attributes:
        images: Number of boxes that were compared.
        median_box: The median of each edge.
        median_iou: Mean IoU of a box with it.
        centre_spread: Standard deviation of the centres, mean of both axes, in sides of the image.
    """

    images: int
    median_box: tuple[float, ...]
    median_iou: float
    centre_spread: float


@dataclass(frozen=True)
class Heat:
    """How much heat is in the same place in every image.

    Attributes:
        images: Number of heatmaps.
        position_bias: Mean correlation of a heatmap with the mean of all others; 1: all are alike.
        mean: The mean heatmap, row by row.
    """

    images: int
    position_bias: float
    mean: tuple[tuple[float, ...], ...]


def some_rows(box_set: BoxSet) -> Rows | None:
    """Return up to 4,096 readable rows out of up to 8 shards; None where there are none."""
    names = [entry.name for entry in box_set.manifest.shards if entry.rows]
    parts = []
    for place in evenly(len(names), _SHARDS):
        table = box_set.read(names[place])
        readable = np.flatnonzero(table.status != UNREADABLE)
        taken = readable[evenly(len(readable), _SAMPLE // min(len(names), _SHARDS))]
        if len(taken):
            parts.append(_rows(table, taken))
    if not parts:
        return None
    maps = [part.heatmaps for part in parts if part.heatmaps is not None]
    return Rows(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.drawn for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        np.concatenate(maps) if maps else None,
        np.concatenate([part.image_hash for part in parts]),
    )


def _rows(table: BoxTable, taken: NDArray[np.int64]) -> Rows:
    boxes = drawn = table.boxes[taken]
    if table.choices is not None:
        numbers = uniforms(0, 0, table.image_hash[taken], 0, CHOICE, 1)[:, 0]
        drawn = table.choices.take(taken).pick(numbers)
    heatmaps = None if table.heatmaps is None else table.heatmaps[taken]
    return Rows(boxes, drawn, table.sizes[taken], heatmaps, table.image_hash[taken])


def spread_of(boxes: NDArray[np.floating]) -> Spread:
    """Compare boxes `(n, 4)` with their median box, n at least 1."""
    median = np.median(boxes.astype(np.float64), axis=0)
    centres = (boxes[:, :2].astype(np.float64) + boxes[:, 2:]) / 2
    return Spread(
        len(boxes),
        tuple(median.tolist()),
        float(iou(median, boxes.astype(np.float64)).mean()),
        float(centres.std(axis=0).mean()),
    )


def heat_of(heatmaps: NDArray[np.float16]) -> Heat | None:
    """Compare heatmaps `(n, h, w)` with each other; None for fewer than two with any heat."""
    heatmaps = heatmaps[heatmaps.any(axis=(1, 2))]
    if len(heatmaps) < 2:
        return None
    cells = heatmaps.reshape(len(heatmaps), -1).astype(np.float64)
    others = cells.sum(axis=0) - cells
    one, rest = (each - each.mean(axis=1, keepdims=True) for each in (cells, others))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(rest, axis=1)
    bias = float(((one * rest).sum(axis=1) / np.maximum(norms, 1e-12)).mean())
    mean = cells.mean(axis=0).reshape(heatmaps.shape[1:]).round(4)
    return Heat(len(heatmaps), bias, tuple(map(tuple, mean.tolist())))


def evenly(available: int, wanted: int) -> NDArray[np.int64]:
    """Return up to `wanted` indices below `available`, evenly spread."""
    return np.unique(np.linspace(0, max(0, available - 1), min(available, wanted)).astype(np.int64))
