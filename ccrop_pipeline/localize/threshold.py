"""Boxes around everything above the threshold of an upsampled heatmap, in whole pixels.

The rule is that of section 3 of ContrastiveCrop (arXiv:2202.03278), evaluated on the heatmap after
bilinear upsampling. Two things about how it is worked out here.

**Exact numbers.** With ``h`` cells upsampled to ``S`` outputs (pixel centres aligned, which torch
calls ``align_corners=False``), output ``o`` lies at ``((2o + 1) h - S) / 2S`` in units of cells,
kept between the first and the last cell. Its two weights are therefore integers over ``2S``, and
a float16 number of [0, 1] is an integer over 2^24. So the upsampled map times ``4 S^2`` is an
integer over 2^24, and as long as ``4 S^2 <= 2^29`` float64 holds it, and every partial sum on the
way to it, without rounding. The threshold is cut to the same raster, which changes no strict
comparison. The box of a heatmap thus depends on no order of summation, batch size or device, and
mirrored heatmaps have exactly mirrored boxes.

**Few columns.** Whether row ``y`` is part of the box depends on the greatest value in it. Along
the row the map is monotone between neighbouring cell centres: linear, or constant outside the
outer ones. A monotone sequence is greatest at one of its ends, so that of all output columns only
the first and the last between each two cell centres can hold a row's maximum: at most ``2w``
columns in place of ``S``. The same holds for the columns with rows and columns exchanged.
"""

from fractions import Fraction
from functools import lru_cache
from math import floor

import torch
from torch import Tensor

MAX_MAP_SIZE = 11_585  # the greatest S with 4 S^2 _RASTER <= 2^53
_RASTER = 2**24  # every float16 number in [0, 1] is a multiple of 1 / _RASTER
_CHUNK = 64  # maps at a time, so that what is in work stays in the cache: 5 times faster than 2048


def pixels_above(heatmaps: Tensor, threshold: float, map_size: int) -> tuple[Tensor, Tensor]:
    """Smallest rectangles around the pixels above the threshold.

    Args:
        heatmaps: float16 ``(n, h, w)`` in [0, 1]; on a device that has float64.
        threshold: In [0, 1); values strictly above it are content.
        map_size: Side of the square that every heatmap is upsampled to, at most `MAX_MAP_SIZE`.

    Returns:
        int64 ``(n, 4)``: first content column and row, and those after the last; and ``found``,
        bool ``(n,)``: False where nothing is above the threshold, and the pixels mean nothing.
    """
    rows = _content_rows(heatmaps, threshold, map_size)
    columns = _content_rows(heatmaps.transpose(1, 2), threshold, map_size)
    (x_first, x_end), (y_first, y_end) = _extent(columns), _extent(rows)
    return torch.stack([x_first, y_first, x_end, y_end], dim=1), rows.any(dim=1)


def _content_rows(heatmaps: Tensor, threshold: float, map_size: int) -> Tensor:
    """Whether each row of the upsampled maps has a value above the threshold, (n, map_size)."""
    across = _upsampling(heatmaps.shape[2], map_size, heatmaps.device)[1]
    down = _upsampling(heatmaps.shape[1], map_size, heatmaps.device)[0].T
    limit = floor(Fraction(threshold) * 4 * map_size**2 * _RASTER) / _RASTER
    content = [
        (across @ chunk.to(torch.float64).transpose(1, 2) @ down).amax(dim=1) > limit
        for chunk in torch.split(heatmaps, _CHUNK)
    ]
    return torch.cat(content)


@lru_cache(maxsize=16)  # what is copied to a GPU anew would wait for all the work before it
def _upsampling(cells: int, outputs: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights of bilinear upsampling along one axis, and those that can yield a maximum.

    Returns:
        Integers as float64 ``(outputs, cells)`` that sum to ``2 outputs`` in every row; and of
        these rows the first and last from each cell centre to the next.
    """
    unit = 2 * outputs
    index = torch.arange(outputs)
    position = ((2 * index + 1) * cells - outputs).clamp(0, unit * (cells - 1))
    left, rest = position // unit, position % unit
    weights = torch.zeros(outputs, cells, dtype=torch.float64)
    weights[index, left] = (unit - rest).to(torch.float64)
    weights[index, (left + 1).clamp(max=cells - 1)] += rest.to(torch.float64)
    starts = left.diff(prepend=torch.tensor([-1])) != 0
    ends = weights[(starts | starts.roll(-1)).nonzero()[:, 0]]
    return weights.to(device), ends.to(device)


def _extent(content: Tensor) -> tuple[Tensor, Tensor]:
    """First index that is set in each row of (n, size), and the one after the last."""
    index = torch.arange(content.shape[1], device=content.device)
    first = torch.where(content, index, content.shape[1]).amin(dim=1)
    end = torch.where(content, index + 1, 0).amax(dim=1)
    return first, end
