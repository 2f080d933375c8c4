"""What is found in the cells of heatmaps as they are: shares of the heat, components, objects."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_OBJECTS = 32  # of one image
RASTER = 2**24  # every float16 number in [0, 1] is a multiple of 1 / RASTER
_MASS_CHUNK = 2**22  # numbers at a time, 32 MB
_WITHIN_A_MAP = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])


def cells_with_mass(heatmaps: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """Find the smallest boxes of cells with at least the share `mass` of each heatmap's sum.

    Of several of the least area, the one with the most heat; of several of these, the one whose
    top, then whose left edge comes first. So a mirrored heatmap has the mirrored box wherever
    only one box has the least area and the most heat. Sums of cells are exact in int64.

    Args:
        heatmaps: float16 `(n, h, w)` in [0, 1].
        mass: In (0, 1], taken as the decimal that Python writes for it: with 0.9, nine cells of
            ten equal ones are enough.

    Returns:
        int64 `(n, 4)`: first column and row, and those after the last; and `found`, bool
        `(n,)`: False for a heatmap of zeros, and the cells mean nothing.
    """
    height, width = heatmaps.shape[1:]
    spans = height * (height + 1) // 2
    chunk = max(1, _MASS_CHUNK // (spans * (width + 1)))
    parts = [_smallest(maps, mass) for maps in torch.split(heatmaps, chunk)]
    return torch.cat(parts), heatmaps.flatten(1).any(dim=1)


def _smallest(heatmaps: Tensor, mass: float) -> Tensor:
    n, height, width = heatmaps.shape
    heat = (heatmaps.to(torch.float64) * RASTER).to(torch.int64)
    totals = heat.sum(dim=(1, 2))
    # In Python's integers, since the products do not fit in 64 bits.
    share = Fraction(str(mass))
    needed = [ceil(share * total) for total in totals.tolist()]

    # sums[:, k, x]: heat of the rows of span k to the left of column x.
    above = torch.nn.functional.pad(heat.cumsum(dim=1).cumsum(dim=2), (1, 0, 1, 0))
    top, last = torch.triu_indices(height, height, device=heat.device)
    sums = above[:, last + 1] - above[:, top]
    # For each span of rows and each left edge, the first right edge that is far enough.
    limits = sums[:, :, :-1] + torch.tensor(needed, device=heat.device)[:, None, None]
    right = torch.searchsorted(sums, limits)
    reached = right <= width
    held = sums.gather(2, right.clamp(max=width)) - sums[:, :, :-1]
    left = torch.arange(width, device=heat.device)
    area = (last + 1 - top)[:, None] * (right - left)
    # The least area, then the most heat, in one number; argmin gives the first of equal ones.
    cost = area * (totals[:, None, None] + 1) - held
    cost = torch.where(reached, cost, torch.iinfo(torch.int64).max)
    best = cost.flatten(1).argmin(dim=1)
    span, column = best // width, best % width
    end = right.flatten(1)[torch.arange(n, device=heat.device), best]
    return torch.stack([column, top[span], end, last[span] + 1], dim=1)


def only_largest(heatmaps: Tensor, threshold: float | Tensor) -> Tensor:
    """Set all cells above the threshold to 0 but those of the largest component of each map.

    The largest has the most cells; of several the one with the most heat, and of several of
    these the one whose first cell, row by row, comes first.

    Cells are connected along edges and corners. Bilinear upsampling mixes the four cells around a
    point, which are then all connected where they are content. So the pixels of one component
    share no cell with those of another, and setting the others to 0 leaves them as they were.

    Args:
        heatmaps: float16 `(n, h, w)` in [0, 1].
        threshold: In [0, 1); cells strictly above it are content. Or float64 `(n,)`, one for each.

    Returns:
        float16 `(n, h, w)` on the same device; maps with one component or none are unchanged.
    """
    found = Components.of(heatmaps, threshold)
    order = found.ranked(-found.heat, -found.sizes)
    _, largest = np.unique(found.map_of[order], return_index=True)
    kept = np.zeros(len(found.heat), bool)
    kept[order[largest]] = True
    others = torch.from_numpy((found.labels > 0) & ~kept[found.labels])
    return heatmaps.masked_fill(others.to(heatmaps.device), 0)


@dataclass
class Components:
    """The connected components of content of some heatmaps; number 0 is what is no content.

    Attributes:
        labels: Number of the component of each cell, `(n, h, w)`.
        map_of: Which heatmap each is in.
        first_cell: Place of its first cell, row by row through all heatmaps.
        sizes: Its cells.
        heat: The sum of its cells; exact.
    """

    labels: NDArray[np.int32]
    map_of: NDArray[np.int64]
    first_cell: NDArray[np.int64]
    sizes: NDArray[np.int64]
    heat: NDArray[np.float64]

    @classmethod
    def of(cls, heatmaps: Tensor, threshold: float | Tensor) -> "Components":
        """Return those above a threshold, or above one of each heatmap, as for `only_largest`."""
        from scipy import ndimage  # a tenth of a second to import, and no other rule needs it

        cells = heatmaps.cpu().numpy()
        limits = (
            threshold.cpu().numpy()[:, None, None] if isinstance(threshold, Tensor) else threshold
        )
        # float64, or numpy would round the threshold to float16 before it compares.
        content = cells.astype(np.float64) > limits
        labels, count = ndimage.label(content, structure=_WITHIN_A_MAP)
        _, first_cell = np.unique(np.append(labels, range(count + 1)), return_index=True)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        weights = cells.ravel().astype(np.float64)
        heat: Any = np.bincount(labels.ravel(), weights=weights, minlength=count + 1)
        return cls(labels, first_cell // max(1, cells[:1].size), first_cell, sizes, heat)

    def ranked(self, *by: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of components, heatmap after heatmap, by a figure, the last first.

        Of equal ones the one whose first cell comes first is first.
        """
        keys = (self.first_cell, *by, self.map_of)
        return 1 + np.lexsort([values[1:] for values in keys])


def ranked_by_heat(heatmaps: Tensor, threshold: float | Tensor) -> NDArray[np.int64]:
    """Return the rank of the component that a cell belongs to, from 1; 0 for what is no content."""
    found = Components.of(heatmaps, threshold)
    order = found.ranked(-found.heat)
    maps = found.map_of[order]
    rank = np.zeros(len(found.heat), np.int64)
    rank[order] = 1 + np.arange(len(order)) - np.searchsorted(maps, maps)
    return rank[found.labels]


def object_level(number: int) -> float:
    """Return the value of the cells of an object, counted from 0, in the heatmap of a mask."""
    return 1 - number / (2 * MOST_OBJECTS)


def object_numbers(heatmaps: NDArray[np.float16]) -> NDArray[np.int64]:
    """Return the object that each cell of such heatmaps belongs to, from 1; 0 for none."""
    number = np.rint((1 - heatmaps.astype(np.float64)) * 2 * MOST_OBJECTS).astype(np.int64)
    return np.where(heatmaps > 0, 1 + number, 0)
