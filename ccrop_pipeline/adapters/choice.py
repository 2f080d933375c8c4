"""One box for each image that is read, where a box set has several."""

import numpy as np
import torch
from numpy.typing import NDArray

from ccrop_pipeline.boxset import Choices


def chosen(boxes: NDArray[np.float32], choices: Choices | None) -> NDArray[np.float32]:
    """Draw one box of each image, for all the views that are cut from it.

    Like the windows of `ContrastiveCrop`, it is drawn from torch's global generator, which is
    left alone where there is nothing to draw.

    Args:
        boxes: float32 (n, 4), what is taken where `choices` is None.
        choices: n rows.

    Returns:
        float32 (n, 4).
    """
    if choices is None:
        return boxes
    return choices.pick(torch.rand(len(choices), dtype=torch.float64, device="cpu").numpy())
