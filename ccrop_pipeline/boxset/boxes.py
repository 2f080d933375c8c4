"""Boxes as arrays: one an image, or several of which a sampler draws one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FULL_BOX = (0.0, 0.0, 1.0, 1.0)
# By EXIF orientation: whether x and y are mirrored once the sides are exchanged, which is done from
# 5 on. Exif 2.32 (CIPA DC-008), tag 274.
_MIRRORED = np.array([[o in (2, 3, 6, 7), o in (3, 4, 7, 8)] * 2 for o in range(9)])


def iou(box: ArrayLike, others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of a box (4,), or of m (m, 4), with m others (m, 4)."""
    box = np.asarray(box, np.float64)
    shared = np.minimum(box[..., 2:], others[:, 2:]) - np.maximum(box[..., :2], others[:, :2])
    intersection = shared.clip(0).prod(1)
    area, areas = ((b[..., 2:] - b[..., :2]).prod(-1) for b in (box, others))
    return np.asarray(intersection / (area + areas - intersection))


def upright(
    boxes: NDArray[np.float32], orientation: NDArray[np.integer] | int
) -> NDArray[np.float32]:
    """Turn boxes as readers turn images that apply the EXIF orientation.

    Width and height of the image are exchanged for orientations from 5 on.

    Args:
        boxes: float32 (n, 4), in the frame of the stored pixels.
        orientation: EXIF orientation of each image, (n,), or of all of them, from 1 to 8.

    Returns:
        float32 (n, 4), in the frame of the image that is turned upright.
    """
    orientation = np.asarray(orientation)
    turned = np.where(orientation[..., None] > 4, boxes[:, [1, 0, 3, 2]], boxes)
    return np.where(_MIRRORED[orientation], 1 - turned[:, [2, 3, 0, 1]], turned)


@dataclass(eq=False)
class Choices:
    """The boxes that a sampler may draw from, any number for each row.

    Attributes:
        boxes: float32 (m, 4), those of all rows one after the other, `x_min, y_min, x_max, y_max`,
            normalised and half-open, in [0, 1].
        starts: int64 (n + 1,): row i has the boxes from `starts[i]` to before `starts[i + 1]`.

    Raises:
        ValueError: If a shape or dtype is another, or the starts do not run from 0 to m.
    """

    boxes: NDArray[np.float32]
    starts: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check shapes and dtypes; the boxes are checked where they are written."""
        if self.boxes.dtype != np.float32 or self.boxes.shape[1:] != (4,):
            raise ValueError(
                f"boxes must be float32 (m, 4), not {self.boxes.dtype} {self.boxes.shape}"
            )
        if self.starts.dtype != np.int64 or self.starts.ndim != 1 or not len(self.starts):
            raise ValueError(
                f"starts must be int64 (n + 1,), not {self.starts.dtype} {self.starts.shape}"
            )
        ends = self.starts[[0, -1]].tolist()
        if ends != [0, len(self.boxes)]:
            raise ValueError(f"starts must rise from 0 to {len(self.boxes)}, not {ends}")

    @classmethod
    def of(cls, rows: list[NDArray[np.float32]]) -> "Choices":
        """Join the boxes of rows, each float32 (k, 4)."""
        boxes = np.concatenate([np.empty((0, 4), np.float32), *rows])
        return cls(boxes, np.cumsum([0, *map(len, rows)], dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence["Choices"]) -> "Choices":
        """Return the rows of one or more, in order."""
        boxes = np.concatenate([part.boxes for part in parts])
        counts = np.concatenate([part.counts for part in parts])
        return cls(boxes, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.starts) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of boxes of each row, int64 (n,)."""
        return np.diff(self.starts)

    def of_row(self, row: int) -> NDArray[np.float32]:
        """Return the boxes of one row, float32 (k, 4)."""
        return self.boxes[self.starts[row] : self.starts[row + 1]]

    def take(self, rows: NDArray[np.integer]) -> "Choices":
        """Return the boxes of some rows, in the order asked for."""
        # Not `counts`: few rows of a large file are asked for at a time.
        first = self.starts[rows]
        counts = self.starts[rows + 1] - first
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
        return Choices(self.boxes[np.repeat(first, counts) + within], starts)

    def union(self) -> NDArray[np.float32]:
        """Return the smallest box around the boxes of each row, float32 (n, 4).

        Every row must have at least one.
        """
        if not len(self):
            return np.empty((0, 4), np.float32)
        low = np.minimum.reduceat(self.boxes[:, :2], self.starts[:-1])
        high = np.maximum.reduceat(self.boxes[:, 2:], self.starts[:-1])
        return np.concatenate([low, high], axis=1)

    def pick(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """Draw one box of each row, all equally likely.

        Args:
            numbers: Uniform numbers, float64 (n,), in [0, 1).

        Returns:
            float32 (n, 4). Every row must have at least one box.
        """
        return self.boxes[self.starts[:-1] + (numbers * self.counts).astype(np.int64)]
