"""How much of their images the boxes of a set cover: counted once, kept in the manifest."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ccrop_pipeline.base.values import check_ranges
from ccrop_pipeline.boxset.boxes import FULL_BOX
from ccrop_pipeline.boxset.table import STATUSES, BoxTable

NEARLY_FULL = 0.9
_BINS = 10
# Other programs may add up areas in another order.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class BoxStatistics:
    """Statistics of the boxes of a set. The area of a box is the share of its image it covers.

    Attributes:
        counts: Number of rows for each status.
        mean_area: Mean area of the boxes of all rows, in (0, 1]; None without rows.
        area_histogram: Number of boxes of an area up to 0.1, up to 0.2, ...; ten numbers.
        nearly_full: Number of boxes of an area above 0.9, full ones included.
        full: Number of boxes that are the whole image.

    Raises:
        ValueError: If a status has no count, or the mean area is not finite.
    """

    counts: Mapping[str, int]
    mean_area: float | None
    area_histogram: tuple[int, ...]
    nearly_full: int
    full: int

    def __post_init__(self) -> None:
        """Drop counts of statuses that are not known, and refuse what is incomplete."""
        if missing := [status for status in STATUSES if status not in self.counts]:
            raise ValueError(f"counts has no {' and no '.join(missing)}.")
        object.__setattr__(self, "counts", {status: self.counts[status] for status in STATUSES})
        check_ranges(self)

    def share(self, count: int) -> float:
        """Return what part of all rows a number of rows is, in [0, 1]; 0 without rows."""
        return count / max(1, sum(self.counts.values()))

    def agrees_with(self, other: "BoxStatistics") -> bool:
        """Tell whether two statistics are of the same rows; mean areas may differ by rounding."""
        numbers = ("counts", "area_histogram", "nearly_full", "full")
        if any(getattr(self, name) != getattr(other, name) for name in numbers):
            return False
        if self.mean_area is None or other.mean_area is None:
            return self.mean_area is other.mean_area
        return abs(self.mean_area - other.mean_area) <= _TOLERANCE


class BoxTally:
    """Counts the statistics of tables, one after the other."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(STATUSES, 0)
        self._histogram = np.zeros(_BINS, np.int64)
        self._nearly_full = self._full = 0
        self._areas: list[float] = []  # one sum a table

    def add(self, table: BoxTable) -> None:
        """Count the rows of a table."""
        sides = table.boxes[:, 2:].astype(np.float64) - table.boxes[:, :2]
        areas = sides[:, 0] * sides[:, 1]
        for status, number in table.counts().items():
            self._counts[status] += number
        bins = np.clip(np.ceil(areas * _BINS) - 1, 0, _BINS - 1).astype(np.int64)
        self._histogram += np.bincount(bins, minlength=_BINS)
        self._nearly_full += int((areas > NEARLY_FULL).sum())
        full = table.boxes == np.array(FULL_BOX, np.float32)
        self._full += int(full.all(axis=1).sum())
        # Exact sums: every machine writes the same manifest.
        self._areas.append(math.fsum(areas.tolist()))

    def statistics(self) -> BoxStatistics:
        """Return the statistics of all tables so far."""
        rows = sum(self._counts.values())
        return BoxStatistics(
            counts=dict(self._counts),
            mean_area=math.fsum(self._areas) / rows if rows else None,
            area_histogram=tuple(self._histogram.tolist()),
            nearly_full=self._nearly_full,
            full=self._full,
        )
