"""The rows of one shard in memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self.starts) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of boxes of each row, int64 (n,)."""
        return np.diff(self.starts)

    def of_row(self, row: int) -> NDArray[np.float32]:
        """Boxes of one row, float32 (k, 4)."""
        return self.boxes[self.starts[row] : self.starts[row + 1]]

    def take(self, rows: NDArray[np.integer]) -> "Choices":
        """Give the boxes of some rows, in the order asked for."""
        # Not `counts`: few rows of a large file are asked for at a time.
        first = self.starts[rows]
        counts = self.starts[rows + 1] - first
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
        return Choices(self.boxes[np.repeat(first, counts) + within], starts)

    def union(self) -> NDArray[np.float32]:
        """Give the smallest box around the boxes of each row, float32 (n, 4).

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


STATUSES = ("ok", "empty", "unreadable")
OK, EMPTY, UNREADABLE = range(3)
FULL_BOX = (0.0, 0.0, 1.0, 1.0)


@dataclass(eq=False)
class BoxTable:
    """Boxes and what belongs to them, one row an image, in source order.

    Attributes:
        keys: Names of the images.
        boxes: float32 (n, 4), `x_min, y_min, x_max, y_max`, normalised and half-open, in [0, 1].
        sizes: uint32 (n, 2), `width, height` of the stored image in pixels; 0 where not known.
        status: uint8 (n,), index into `STATUSES`.
        image_hash: uint64 (n,), xxh3 of the encoded bytes of the image.
        heatmaps: float16 (n, h, w) on the native grid, in [0, 1]; None for a table without.
        choices: Several boxes an image for the sampler to draw from, at least one a row, whose
            union is the row's box; None for a table without.

    Raises:
        ValueError: If a shape or dtype is another, or a status is no index into `STATUSES`.
    """

    keys: list[str]
    boxes: NDArray[np.float32]
    sizes: NDArray[np.uint32]
    status: NDArray[np.uint8]
    image_hash: NDArray[np.uint64]
    heatmaps: NDArray[np.float16] | None = None
    choices: Choices | None = None

    def __post_init__(self) -> None:
        """Check shapes and dtypes; the values are checked where they are written."""
        n = len(self.keys)
        _expect("boxes", self.boxes, np.float32, (n, 4))
        _expect("sizes", self.sizes, np.uint32, (n, 2))
        _expect("status", self.status, np.uint8, (n,))
        _expect("image_hash", self.image_hash, np.uint64, (n,))
        if self.heatmaps is not None:
            grid = self.heatmaps.shape[1:]
            if len(grid) != 2 or 0 in grid:
                raise ValueError(f"heatmaps must be (n, h, w), not {self.heatmaps.shape}")
            _expect("heatmaps", self.heatmaps, np.float16, (n, *grid))
        if self.choices is not None and len(self.choices) != n:
            raise ValueError(f"choices must have {n} rows, not {len(self.choices)}")
        if n and int(self.status.max()) >= len(STATUSES):
            raise ValueError(f"status must be below {len(STATUSES)}, not {self.status.max()}")

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self.keys)

    @property
    def heatmap_shape(self) -> tuple[int, int] | None:
        """Height and width of the native grid, or None without heatmaps."""
        return None if self.heatmaps is None else (self.heatmaps.shape[1], self.heatmaps.shape[2])

    def counts(self) -> dict[str, int]:
        """Count the rows of each status, in the order of `STATUSES`."""
        numbers = np.bincount(self.status, minlength=len(STATUSES)).tolist()
        return dict(zip(STATUSES, numbers, strict=True))


def _expect(name: str, array: NDArray[np.generic], dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise ValueError(
            f"{name} must be {np.dtype(dtype)} {shape}, not {array.dtype} {array.shape}"
        )
