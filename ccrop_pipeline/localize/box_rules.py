"""Boxes from heatmaps, by a rule.

The box of a heatmap is the same bit for bit whatever the batch, the device and the order of
summation. A float16 number in [0, 1] is an integer over 2^24, so everything that depends on the
heat is computed in integers, some of them held by float64 without rounding; what follows is
float64 element by element.
"""

from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from functools import lru_cache
from math import floor
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.base.values import check_ranges, ranged
from ccrop_pipeline.boxset import Choices
from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.localize.cells import (
    MOST_OBJECTS,
    RASTER,
    cells_with_mass,
    object_numbers,
    only_largest,
    ranked_by_heat,
)

MAX_MAP_SIZE = 11_585  # the greatest S with 4 S^2 RASTER <= 2^53
_MOST = 0.99  # of a threshold with a share of the mean, so that something is above it
_CENTRAL = (0.1, 0.9)  # the middle of a side, 80 % of it
_MAP_CHUNK = 64  # maps at a time, so that they stay in the cache: 5 times faster than 2048
Component = Literal["all", "largest"]


@dataclass(frozen=True)
class BoxRule:
    """What of a heatmap its box is drawn around: at most one of `threshold` and `mass`.

    `BoxRule()`, with neither, sets itself on the images it is for: `choose_rule` in
    `localize.rule_choice` gives it the threshold and the share of the mean.

    Attributes:
        threshold: The smallest rectangle around what is strictly above it in the upsampled
            heatmap; in [0, 1). The rule of ContrastiveCrop, k = 0.1 there.
        mass: The smallest rectangle of heatmap cells with at least this share of the sum of all
            cells; in (0, 1].
        mean_share: What is added to the threshold: this share of the mean of the image's own
            heatmap cells; in [0, 2]. The sum is cut to steps of 2^-24, and to .99.
        objects: The most boxes of an image. With more than one, each is around an object of its
            own: a connected component of what is above the threshold, those with the most heat
            first, or what the maps `lost` and `tokencut` found; `object_boxes` draws them.
        component: Whether everything above the threshold counts, or its largest connected
            component only (most heatmap cells, joined along edges and corners).
        centre_weight: How far a box is moved to the central 80 % of each side of the image: the
            weight of that in the mean of the two; in [0, 1]. Comes before the margin. None: a rule
            that sets itself chooses it too; beside a threshold or a mass that is 0.
        margin: Share of the box's own sides to add at each of its four sides, as far as the
            image goes; 0.1 makes a box 1.2 times as wide and high.
        min_size: Least side as a share of the image's; in [0, 1]. A smaller box is widened about
            its centre and moved into the image. Comes after the margin.

    Raises:
        SettingError: If a value is out of its range, or two exclude each other.
    """

    threshold: float | None = ranged(None, "[0, 1)")
    mass: float | None = ranged(None, "(0, 1]")
    _: KW_ONLY
    mean_share: float = ranged(0.0, "[0, 2]")
    objects: int = ranged(1, f"[1, {MOST_OBJECTS}]")
    component: Component = "all"
    centre_weight: float | None = ranged(None, "[0, 1]")
    margin: float = ranged(0.0, "[0, 100]")
    min_size: float = ranged(0.0, "[0, 1]")

    def __post_init__(self) -> None:
        """Check the ranges, and settle what does not set itself."""
        if self.threshold is not None and self.mass is not None:
            raise SettingError(
                f"threshold is {self.threshold} and mass {self.mass}; give at most one of them."
            )
        check_ranges(self)
        if self.mean_share and self.threshold is None:
            raise SettingError("mean_share is added to a threshold: give one as a number.")
        if self.component not in get_args(Component):
            raise SettingError(
                f"component is {self.component!r}; it must be one of {get_args(Component)}."
            )
        if self.component == "largest" and self.mass is not None:
            raise SettingError("the largest component is of what a threshold leaves: give no mass.")
        if self.objects > 1 and (self.mass is not None or self.component == "largest"):
            raise SettingError(
                f"objects is {self.objects}, and each is a component of what a threshold leaves: "
                "give neither a mass nor the largest component."
            )
        if self.centre_weight is None and not self.sets_itself:
            object.__setattr__(self, "centre_weight", 0.0)

    @property
    def sets_itself(self) -> bool:
        """Whether there is neither a threshold nor a mass yet."""
        return self.threshold is None and self.mass is None


def boxes_from_heatmaps(heatmaps: Tensor, rule: BoxRule, map_size: int) -> tuple[Tensor, Tensor]:
    """Return the boxes of heatmaps.

    Their edges are `first / map_size` and `(last + 1) / map_size` of the first and last
    content row and column, so that a map that is content throughout has the full box. The code
    published with the paper (xyupeng/ContrastiveCrop) has `last / map_size`, a pixel short.

    Args:
        heatmaps: float16 `(n, h, w)` in [0, 1]; on a device that has float64.
        rule: What the boxes are drawn around.
        map_size: Side of the square that every heatmap is upsampled to for a threshold, in
            pixels; at most 11585. A mass is counted in cells and needs no upsampling.

    Returns:
        Boxes, float32 `(n, 4)` of `x_min, y_min, x_max, y_max` relative to the map; and
        `found`, bool `(n,)`: False where the rule finds no content, with the full box.

    Raises:
        ValueError: If an argument is outside of what is described here.
    """
    check_heatmaps(heatmaps, map_size)
    return located(heatmaps, rule, map_size)


def located(heatmaps: Tensor, rule: BoxRule, map_size: int) -> tuple[Tensor, Tensor]:
    """Return `boxes_from_heatmaps` of heatmaps that `min_max` made, unchecked.

    With a threshold and all components a GPU is given its work and not waited for.
    """
    height, width = heatmaps.shape[1:]
    if rule.sets_itself:
        raise SettingError(
            "the box rule has no threshold yet: `compute_boxes` sets it by the images. "
            "For heatmaps alone, give `threshold` or `mass`."
        )
    if rule.threshold is not None:
        threshold = thresholds(heatmaps, rule) if rule.mean_share else rule.threshold
        if rule.component == "largest":
            heatmaps = only_largest(heatmaps, threshold)
        ends, found = pixels_above(heatmaps, threshold, map_size)
        divisors = (map_size, map_size)
    else:
        assert rule.mass is not None
        ends, found = cells_with_mass(heatmaps, rule.mass)
        divisors = (width, height)
    return drawn(ends, found, rule, divisors)


def drawn(
    ends: Tensor, found: Tensor, rule: BoxRule, divisors: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return boxes around ends (n, 4) that were counted in parts of width and height."""
    x, y = (
        _grown(_shares(divisor, ends.device)[ends[:, axis::2]], rule)
        for axis, divisor in enumerate(divisors)
    )
    boxes = torch.stack([x, y], dim=2).flatten(1).to(torch.float32)
    full = torch.cat([torch.zeros_like(boxes[:, :2]), torch.ones_like(boxes[:, 2:])], dim=1)
    return torch.where(found[:, None], boxes, full), found


def object_boxes(
    heatmaps: Tensor, rule: BoxRule, map_size: int, *, masks: bool
) -> tuple[Choices, NDArray[np.bool_]]:
    """Return the boxes of the objects of each heatmap, the first object first.

    An object is a connected component of the cells above the threshold, as for `only_largest`:
    those with the most heat, of equal ones the one whose first cell comes first. In a mask it is
    what the localizer found, in its order, and its heat is 1. Its box is that of the heatmap in
    which the content of all others is set to 0; margin and least size are those of each object.

    Args:
        heatmaps: float16 `(n, h, w)` in [0, 1], on the CPU.
        rule: At most `rule.objects` boxes of each heatmap; has a threshold.
        map_size: As for `boxes_from_heatmaps`.
        masks: Whether the heatmaps are those of `lost` or `tokencut`.

    Returns:
        The boxes, the full one where there is no object; and `found`, bool `(n,)`: whether there
        is one.

    Raises:
        ValueError: If an argument is outside of what is described here.
    """
    check_heatmaps(heatmaps, map_size)
    assert rule.threshold is not None
    limit = thresholds(heatmaps, rule) if rule.mean_share else rule.threshold
    labels = torch.from_numpy(
        object_numbers(heatmaps.numpy()) if masks else ranked_by_heat(heatmaps, limit)
    )
    boxes, found = [], []
    for number in range(1, 1 + min(rule.objects, max(1, int(labels.max()) if len(labels) else 1))):
        own = labels == number
        heat = own.half() if masks else heatmaps.masked_fill((labels > 0) & ~own, 0)
        ends, has_pixels = pixels_above(heat, limit, map_size)
        boxes.append(drawn(ends, has_pixels, rule, (map_size, map_size))[0])
        found.append(has_pixels)
    every, has = torch.stack(boxes, dim=1).numpy(), torch.stack(found, dim=1).numpy()
    any_object = np.asarray(has.any(axis=1))
    has[~any_object, 0] = True  # the full box, as `drawn` gives it
    starts = np.concatenate([[0], has.sum(axis=1).cumsum()]).astype(np.int64)
    return Choices(every[has], starts), any_object


def thresholds(heatmaps: Tensor, rule: BoxRule) -> Tensor:
    """Return the threshold of each heatmap, its share of the mean included: float64 `(n,)`."""
    assert rule.threshold is not None
    heat = heatmaps.flatten(1).to(torch.float64) * RASTER
    # Sums of integers and single float64 operations: the same on every device. The divisor is a
    # tensor, since a GPU multiplies by 1 / divisor where it is a number.
    cells = torch.full((1,), heat.shape[1], dtype=torch.float64, device=heat.device)
    own = (heat.sum(dim=1) * rule.mean_share / cells).floor()
    return (own + floor(rule.threshold * RASTER)).clamp(max=floor(_MOST * RASTER)) / RASTER


def check_heatmaps(heatmaps: Tensor, map_size: int) -> None:
    """Refuse what is no float16 `(n, h, w)` in [0, 1], or no `map_size`.

    Raises:
        ValueError: If it is one of these.
    """
    if heatmaps.dtype != torch.float16 or heatmaps.ndim != 3 or 0 in heatmaps.shape[1:]:
        raise ValueError(
            "heatmaps must be float16 (n, h, w) with cells, "
            f"not {heatmaps.dtype} {tuple(heatmaps.shape)}"
        )
    if not bool(((heatmaps >= 0) & (heatmaps <= 1)).all()):
        raise ValueError("heatmaps must be in [0, 1] throughout; min_max brings them there.")
    if not 1 <= map_size <= MAX_MAP_SIZE:
        raise ValueError(f"map_size must be in 1 to {MAX_MAP_SIZE}, not {map_size}")


@lru_cache(maxsize=16)  # see `_upsampling`
def _shares(divisor: int, device: torch.device) -> Tensor:
    """Return the numbers 0 to divisor over the divisor, float64."""
    # Divided by Python, since devices differ in whether they divide or multiply by 1 / divisor.
    shares = [number / divisor for number in range(divisor + 1)]
    return torch.tensor(shares, dtype=torch.float64, device=device)


def _grown(ends: Tensor, rule: BoxRule) -> Tensor:
    """Return the ends (n, 2) of the sides of boxes as the rule moves and widens them."""
    if rule.centre_weight:
        central = [rule.centre_weight * edge for edge in _CENTRAL]
        ends = ends * (1 - rule.centre_weight) + ends.new_tensor(central)
    margin = (ends[:, 1] - ends[:, 0]) * rule.margin
    low, high = (ends[:, 0] - margin).clamp(min=0), (ends[:, 1] + margin).clamp(max=1)
    missing = (rule.min_size - (high - low)).clamp(min=0) / 2
    low, high = low - missing, high + missing
    inwards = (-low).clamp(min=0) - (high - 1).clamp(min=0)
    return torch.stack([low + inwards, high + inwards], dim=1).clamp(0, 1)


def pixels_above(
    heatmaps: Tensor, threshold: float | Tensor, map_size: int
) -> tuple[Tensor, Tensor]:
    """Find the smallest rectangles around the pixels above the threshold.

    The rule of section 3 of ContrastiveCrop (arXiv:2202.03278), evaluated on the heatmap after
    bilinear upsampling. With `h` cells upsampled to `S` outputs (pixel centres aligned, which torch
    calls `align_corners=False`), output `o` is at `((2o + 1) h - S) / 2S` in units of cells, kept
    between the first and the last cell. Its two weights are integers over `2S`, so the upsampled
    map times `4 S^2` is an integer over 2^24: as long as `4 S^2 <= 2^29`, float64 holds it, and
    every partial sum on the way to it, without rounding. The threshold is cut to the same raster,
    which changes no strict comparison. Mirrored heatmaps have exactly mirrored boxes.

    Args:
        heatmaps: float16 `(n, h, w)` in [0, 1]; on a device that has float64.
        threshold: In [0, 1); values strictly above it are content. Or float64 `(n,)`, one for
            each heatmap, of whole numbers over 2^24.
        map_size: Side of the square that every heatmap is upsampled to, at most `MAX_MAP_SIZE`.

    Returns:
        int64 `(n, 4)`: first content column and row, and those after the last; and `found`,
        bool `(n,)`: False where nothing is above the threshold, and the pixels mean nothing.
    """
    rows = _content_rows(heatmaps, threshold, map_size)
    columns = _content_rows(heatmaps.transpose(1, 2), threshold, map_size)
    (x_first, x_end), (y_first, y_end) = _extent(columns), _extent(rows)
    return torch.stack([x_first, y_first, x_end, y_end], dim=1), rows.any(dim=1)


def _content_rows(heatmaps: Tensor, threshold: float | Tensor, map_size: int) -> Tensor:
    """Tell which rows of the upsampled maps have a value above the threshold, (n, map_size).

    What counts is the greatest value of a row. Along the row the map is monotone between
    neighbouring cell centres: linear, or constant outside the outer ones. A monotone sequence is
    greatest at one of its ends, so that only the first and the last output column between each two
    cell centres can hold a row's maximum: at most `2w` columns in place of `map_size`.
    """
    across = _upsampling(heatmaps.shape[2], map_size, heatmaps.device)[1]
    down = _upsampling(heatmaps.shape[1], map_size, heatmaps.device)[0].T
    if isinstance(threshold, Tensor):
        limits = threshold * 4 * map_size**2
    else:
        limit = floor(Fraction(threshold) * 4 * map_size**2 * RASTER) / RASTER
        limits = torch.full((1,), limit, dtype=torch.float64, device=down.device)
    content = [
        (across @ chunk.to(torch.float64).transpose(1, 2) @ down).amax(dim=1) > part[:, None]
        for chunk, part in zip(
            torch.split(heatmaps, _MAP_CHUNK),
            torch.split(limits.expand(len(heatmaps)), _MAP_CHUNK),
            strict=True,
        )
    ]
    return torch.cat(content)


@lru_cache(maxsize=16)  # what is copied to a GPU anew would wait for all the work before it
def _upsampling(cells: int, outputs: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the weights of bilinear upsampling along one axis, and those that can yield a maximum.

    Returns:
        Integers as float64 `(outputs, cells)` that sum to `2 outputs` in every row; and of
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
    """Return the first index that is set in each row of (n, size), and the one after the last."""
    index = torch.arange(content.shape[1], device=content.device)
    first = torch.where(content, index, content.shape[1]).amin(dim=1)
    end = torch.where(content, index + 1, 0).amax(dim=1)
    return first, end
