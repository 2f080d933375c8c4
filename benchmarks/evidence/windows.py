"""What the windows of an arm have in common, and how much of the object they show."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset import FULL_BOX, BoxSet
from ccrop_pipeline.crops import UNIFORMS_PER_WINDOW, CropParams, sample_windows
from ccrop_pipeline.images import Source, stored_size, true_boxes

PAIRS = 10  # of windows an image

Floats = NDArray[np.float64]


def window_statistics(boxes: Path | None, source: Source, crop: CropParams) -> dict[str, float]:
    """Draw windows as training would, from random numbers of their own.

    Args:
        boxes: Box set; None for random crops.
        source: Images.
        crop: How windows are drawn.

    Returns:
        `pair_iou`: mean IoU of the two windows of a pair. Where images come with true boxes,
        also `object`: mean share of the true box that a window shows, and `missed`: share of
        windows that show less than a quarter of it.
    """
    if boxes is None:
        # The box and the alpha under which windows are those of RandomResizedCrop.
        crop = CropParams("overlap", 1.0, crop.scale, crop.ratio)
    by_key = _by_key(boxes)
    samples = [sample for shard in source.shards for sample in source.read(shard)]
    edges = np.array([by_key.get(sample.key, FULL_BOX) for sample in samples], np.float32)
    sizes = np.array([stored_size(sample.image) for sample in samples])
    first, second = (_draw(edges, sizes, crop, seed) for seed in (0, 1))
    found = {"pair_iou": float((_shared(first, second) / _union(first, second)).mean())}
    if samples[0].annotation:
        truth = np.array([true_boxes(sample.annotation)[0] for sample in samples])
        shown = _shared(first, np.tile(truth, (PAIRS, 1))) / np.tile(_area(truth), PAIRS)
        found |= {"object": float(shown.mean()), "missed": float((shown < 0.25).mean())}
    return {name: round(value, 4) for name, value in found.items()}


def _by_key(boxes: Path | None) -> dict[str, NDArray[np.float32]]:
    tables = BoxSet.open(boxes).tables(heatmaps=False) if boxes else ()
    return {
        key: box for _, table in tables for key, box in zip(table.keys, table.boxes, strict=True)
    }


def _draw(
    edges: NDArray[np.float32], sizes: NDArray[np.int64], crop: CropParams, seed: int
) -> Floats:
    """Windows as normalised boxes: PAIRS times all images, (PAIRS * n, 4)."""
    every, size = np.tile(edges, (PAIRS, 1)), np.tile(sizes, (PAIRS, 1))
    uniforms = np.random.default_rng(seed).random((len(every), UNIFORMS_PER_WINDOW))
    top, left, height, width = sample_windows(every, size, uniforms, crop).T
    return np.stack([left, top, left + width, top + height], axis=1) / np.tile(size, (1, 2))


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _shared(a: Floats, b: Floats) -> Floats:
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    return np.asarray(sides.clip(0).prod(1))


def _union(a: Floats, b: Floats) -> Floats:
    return np.asarray(_area(a) + _area(b) - _shared(a, b))
