"""How much of two boxes is common to both."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def iou(box: ArrayLike, others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of one box (4,), or one for each (m, 4), with others (m, 4)."""
    box = np.asarray(box, np.float64)
    shared = np.minimum(box[..., 2:], others[:, 2:]) - np.maximum(box[..., :2], others[:, :2])
    intersection = shared.clip(0).prod(1)
    area, areas = ((b[..., 2:] - b[..., :2]).prod(-1) for b in (box, others))
    return np.asarray(intersection / (area + areas - intersection))
