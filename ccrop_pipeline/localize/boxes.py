"""Boxes from heatmaps: the smallest rectangle around everything above the threshold.

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
from math import floor
from typing import Literal, get_args

import torch
from torch import Tensor

Convention = Literal["half_open", "official"]

_RASTER = 2**24  # every float16 number in [0, 1] is a multiple of 1 / _RASTER
_MAX_MAP_SIZE = 11_585  # the greatest S with 4 S^2 _RASTER <= 2^53
_CHUNK = 64  # maps at a time, so that what is in work stays in the cache: 5 times faster than 2048


def boxes_from_heatmaps(
    heatmaps: Tensor, threshold: float, map_size: int, convention: Convention = "half_open"
) -> tuple[Tensor, Tensor]:
    """Smallest rectangles around what is above the threshold in the upsampled heatmaps.

    Args:
        heatmaps: float16 ``(n, h, w)`` in [0, 1]; on a device that has float64.
        threshold: In [0, 1); values strictly above it are content.
        map_size: Side of the square that every heatmap is upsampled to, in pixels; at most 11585.
        convention: ``half_open`` has the edges ``first / map_size`` and ``(last + 1) / map_size``
            of the first and last content row and column; the rectangle of a map that is content
            throughout is the full box. ``official`` has ``last / map_size`` for the far edges, as
            the code published with the paper does (xyupeng/ContrastiveCrop); only to compare with
            it: such boxes are a pixel short, and empty where a single row is content.

    Returns:
        Boxes, float32 ``(n, 4)`` of ``x_min, y_min, x_max, y_max`` relative to the map; and
        ``found``, bool ``(n,)``: False where nothing is above the threshold, with the full box.

    Raises:
        ValueError: An argument is outside of what is described here.
    """
    _check(heatmaps, threshold, map_size, convention)
    rows = _content_rows(heatmaps, threshold, map_size)
    columns = _content_rows(heatmaps.transpose(1, 2), threshold, map_size)
    found = rows.any(dim=1)
    (x_first, x_end), (y_first, y_end) = _extent(columns), _extent(rows)
    far = 0 if convention == "half_open" else 1
    # Divided by Python, since devices differ in whether they divide or multiply by 1 / map_size.
    edges = torch.tensor([pixel / map_size for pixel in range(map_size + 1)]).to(heatmaps.device)
    boxes = edges[torch.stack([x_first, y_first, x_end - far, y_end - far], dim=1)]
    full = torch.tensor([0.0, 0.0, 1.0, 1.0], device=heatmaps.device)
    return torch.where(found[:, None], boxes, full), found


def _check(heatmaps: Tensor, threshold: float, map_size: int, convention: str) -> None:
    if heatmaps.dtype != torch.float16 or heatmaps.ndim != 3 or 0 in heatmaps.shape[1:]:
        raise ValueError(
            "heatmaps must be float16 (n, h, w) with cells, "
            f"not {heatmaps.dtype} {tuple(heatmaps.shape)}"
        )
    if not bool(((heatmaps >= 0) & (heatmaps <= 1)).all()):
        raise ValueError("heatmaps must lie in [0, 1] throughout; min_max brings them there")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be in [0, 1), not {threshold}")
    if not 1 <= map_size <= _MAX_MAP_SIZE:
        raise ValueError(f"map_size must be in 1 to {_MAX_MAP_SIZE}, not {map_size}")
    if convention not in get_args(Convention):
        raise ValueError(f"convention must be one of {get_args(Convention)}, not {convention!r}")


def _content_rows(heatmaps: Tensor, threshold: float, map_size: int) -> Tensor:
    """Whether each row of the upsampled maps has a value above the threshold, (n, map_size)."""
    weights, ends = _upsampling(heatmaps.shape[2], map_size)
    across = weights[ends].to(heatmaps.device)
    weights, _ = _upsampling(heatmaps.shape[1], map_size)
    down = weights.T.to(heatmaps.device)
    limit = floor(Fraction(threshold) * 4 * map_size**2 * _RASTER) / _RASTER
    content = [
        (across @ chunk.to(torch.float64).transpose(1, 2) @ down).amax(dim=1) > limit
        for chunk in torch.split(heatmaps, _CHUNK)
    ]
    return torch.cat(content)


def _upsampling(cells: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Weights of bilinear upsampling along one axis, and the outputs that can hold a maximum.

    Returns:
        Integers as float64 ``(outputs, cells)`` that sum to ``2 outputs`` in every row; and the
        indices of the first and last output from each cell centre to the next.
    """
    unit = 2 * outputs
    index = torch.arange(outputs)
    position = ((2 * index + 1) * cells - outputs).clamp(0, unit * (cells - 1))
    left, rest = position // unit, position % unit
    weights = torch.zeros(outputs, cells, dtype=torch.float64)
    weights[index, left] = (unit - rest).to(torch.float64)
    weights[index, (left + 1).clamp(max=cells - 1)] += rest.to(torch.float64)
    starts = left.diff(prepend=torch.tensor([-1])) != 0
    return weights, (starts | starts.roll(-1)).nonzero()[:, 0]


def _extent(content: Tensor) -> tuple[Tensor, Tensor]:
    """First index that is set in each row of (n, size), and the one after the last."""
    index = torch.arange(content.shape[1], device=content.device)
    first = torch.where(content, index, content.shape[1]).amin(dim=1)
    end = torch.where(content, index + 1, 0).amax(dim=1)
    return first, end
