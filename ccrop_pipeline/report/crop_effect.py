"""What boxes change about the windows of a pair of views, beside plain random crops."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset import FULL_BOX, iou
from ccrop_pipeline.crops import UNIFORMS_PER_WINDOW, CropParams, sample_windows
from ccrop_pipeline.crops.randomness import WINDOW, uniforms

Floats = NDArray[np.floating]
MIDDLE = (0.25, 0.25, 0.75, 0.75)
_SIDE = 256  # pixels of images whose size is not known


@dataclass(frozen=True)
class Windows:
    """Means over pairs of windows, one pair an image.

    Attributes:
        pair_iou: Intersection over union of the two windows of a pair.
        box: Share of the image's box that a window shows.
        middle: Share of the middle of the image that a window shows, half of either side.
    """

    pair_iou: float
    box: float
    middle: float


@dataclass(frozen=True)
class CropEffect:
    """Windows by boxes, and those of plain random crops of the same sizes.

    Attributes:
        rule: Where windows go, see `CropParams`, as is `alpha`.
        alpha: Of the Beta distribution.
        images: Number of images.
        boxed: Windows that mind the boxes.
        plain: Windows that lie anywhere, as those of RandomResizedCrop.
    """

    rule: str
    alpha: float
    images: int
    boxed: Windows
    plain: Windows


def crop_effect(boxes: Floats, sizes: NDArray[np.integer], params: CropParams) -> CropEffect:
    """Draw a pair of windows of each image, by its box and without; always the same ones.

    Args:
        boxes: Normalised `(n, 4)`, one or more rows.
        sizes: Width and height of the images, `(n, 2)`; 0 where not known.
        params: How windows are drawn.
    """
    n = len(boxes)
    pixels = np.where(sizes > 0, sizes, _SIDE).astype(np.int64)
    numbers = [
        uniforms(0, 0, np.arange(n, dtype=np.uint64), view, WINDOW, UNIFORMS_PER_WINDOW)
        for view in (0, 1)
    ]
    full = np.tile(np.array(FULL_BOX), (n, 1))
    # With the full box, this rule and alpha 1 are those of RandomResizedCrop (`ContrastiveCrop`).
    anywhere = replace(params, rule="overlap", alpha=1.0)
    return CropEffect(
        params.rule,
        params.alpha,
        n,
        _windows(boxes, boxes, pixels, numbers, params),
        _windows(full, boxes, pixels, numbers, anywhere),
    )


def _windows(
    minded: Floats,
    boxes: Floats,
    sizes: NDArray[np.int64],
    numbers: list[NDArray[np.float64]],
    params: CropParams,
) -> Windows:
    scale = np.tile(sizes, 2)
    one, other = (_edges(sample_windows(minded, sizes, drawn, params)) / scale for drawn in numbers)
    middle = np.tile(np.array(MIDDLE), (len(boxes), 1))
    box, centre = (
        float(np.mean([_shared(w, each) / _area(each) for w in (one, other)]))
        for each in (boxes, middle)
    )
    return Windows(float(iou(one, other).mean()), box, centre)


def _edges(windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Turn top, left, height, width into x_min, y_min, x_max, y_max."""
    corners = windows[:, 1::-1]
    return np.concatenate([corners, corners + windows[:, :1:-1]], axis=1).astype(np.float64)


def _shared(boxes: Floats, others: Floats) -> NDArray[np.float64]:
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    return np.asarray((high - low).clip(0).prod(axis=1), np.float64)


def _area(boxes: Floats) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), np.float64)
