"""The rows of one shard in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset.boxes import Choices

STATUSES = ("ok", "empty", "unreadable")
OK, EMPTY, UNREADABLE = range(3)


class BoxRow(NamedTuple):
    """One row of a box set.

    Attributes:
        key: Name of the image.
        box: `x_min, y_min, x_max, y_max`, normalised and half-open, in [0, 1].
        status: One of `STATUSES`.
        width: Of the stored image, in pixels; 0 where not known.
        height: Of the stored image, in pixels; 0 where not known.
        orientation: EXIF orientation, 1 to 8; 1 where the image has none.
        image_hash: xxh3 of the encoded bytes of the image.
        choices: The boxes that a sampler may draw from; None in a box set without.
    """

    key: str
    box: tuple[float, float, float, float]
    status: str
    width: int
    height: int
    orientation: int
    image_hash: int
    choices: tuple[tuple[float, ...], ...] | None


@dataclass(eq=False)
class BoxTable:
    """Boxes and what belongs to them, one row an image, in source order.

    Attributes:
        keys: Names of the images.
        boxes: float32 (n, 4), `x_min, y_min, x_max, y_max`, normalised and half-open, in [0, 1].
        sizes: uint32 (n, 2), `width, height` of the stored image in pixels; 0 where not known.
        orientation: uint8 (n,), EXIF orientation of the image, 1 to 8; 1 where it has none.
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
    orientation: NDArray[np.uint8]
    status: NDArray[np.uint8]
    image_hash: NDArray[np.uint64]
    heatmaps: NDArray[np.float16] | None = None
    choices: Choices | None = None

    def __post_init__(self) -> None:
        """Check shapes and dtypes; the values are checked where they are written."""
        n = len(self.keys)
        _expect("boxes", self.boxes, np.float32, (n, 4))
        _expect("sizes", self.sizes, np.uint32, (n, 2))
        _expect("orientation", self.orientation, np.uint8, (n,))
        _expect("status", self.status, np.uint8, (n,))
        _expect("image_hash", self.image_hash, np.uint64, (n,))
        if self.heatmaps is not None:
            grid = self.heatmaps.shape[1:]
            if len(grid) != 2 or 0 in grid:
                raise ValueError(f"heatmaps must be (n, h, w), not {self.heatmaps.shape}")
            _expect("heatmaps", self.heatmaps, np.float16, (n, *grid))
        if self.choices is not None and len(self.choices) != n:
            raise ValueError(f"there are choices for {len(self.choices)} of {n} rows")
        if n and int(self.status.max()) >= len(STATUSES):
            raise ValueError(f"status must be below {len(STATUSES)}, not {self.status.max()}")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.keys)

    def row(self, number: int) -> BoxRow:
        """Return a row, counted from 0."""
        width, height = self.sizes[number].tolist()
        choices = None if self.choices is None else self.choices.of_row(number).tolist()
        return BoxRow(
            self.keys[number],
            tuple(self.boxes[number].tolist()),
            STATUSES[self.status[number]],
            width,
            height,
            int(self.orientation[number]),
            int(self.image_hash[number]),
            None if choices is None else tuple(map(tuple, choices)),
        )

    def __iter__(self) -> Iterator[BoxRow]:
        """Yield the rows."""
        return map(self.row, range(len(self)))

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
