"""The smallest box of whole cells that holds a given share of a heatmap's heat.

float16 numbers of [0, 1] are integers over 2^24, so that sums of cells are exact in int64 and
every comparison here is one of integers: the box depends on no order of summation, batch size or
device.
"""

from fractions import Fraction
from math import ceil

import torch
from torch import Tensor

_RASTER = 2**24  # every float16 number in [0, 1] is a multiple of 1 / _RASTER
_CHUNK_ELEMENTS = 2**22  # numbers in work at a time, 32 MB


def cells_with_mass(heatmaps: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """Smallest boxes of cells with at least the share ``mass`` of each heatmap's sum.

    Of several of the least area, the one with the most heat; of several of these, the one whose
    top, then whose left edge comes first. So a mirrored heatmap has the mirrored box wherever
    only one box has the least area and the most heat.

    Args:
        heatmaps: float16 ``(n, h, w)`` in [0, 1].
        mass: In (0, 1], taken as the decimal that Python writes for it: with 0.9, nine cells of
            ten equal ones are enough.

    Returns:
        int64 ``(n, 4)``: first column and row, and those after the last; and ``found``, bool
        ``(n,)``: False for a heatmap of zeros, and the cells mean nothing.
    """
    height, width = heatmaps.shape[1:]
    spans = height * (height + 1) // 2
    chunk = max(1, _CHUNK_ELEMENTS // (spans * (width + 1)))
    parts = [_smallest(maps, mass) for maps in torch.split(heatmaps, chunk)]
    return torch.cat(parts), heatmaps.flatten(1).any(dim=1)


def _smallest(heatmaps: Tensor, mass: float) -> Tensor:
    n, height, width = heatmaps.shape
    heat = (heatmaps.to(torch.float64) * _RASTER).to(torch.int64)
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
