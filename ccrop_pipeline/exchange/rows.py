"""The boxes of a table, one after the other, for forms that know no box set."""

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset import OK, BoxTable, Choices


def found_boxes(table: BoxTable) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return every box that is a find, with its row: all choices where there are some.

    Returns:
        Rows, int64 (m,), and boxes, float32 (m, 4).
    """
    rows = np.flatnonzero(table.status == OK)
    if table.choices is None:
        return rows, table.boxes[rows]
    chosen: Choices = table.choices.take(rows)
    return np.repeat(rows, chosen.counts), chosen.boxes


def in_pixels(boxes: NDArray[np.float32], sizes: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Turn normalised boxes (m, 4) of images of these widths and heights, (m, 2), into pixels.

    Returns:
        float64 (m, 4), left, top, width and height.
    """
    edges = boxes.astype(np.float64)
    sides = sizes.astype(np.float64)
    return np.concatenate([edges[:, :2] * sides, (edges[:, 2:] - edges[:, :2]) * sides], axis=1)
