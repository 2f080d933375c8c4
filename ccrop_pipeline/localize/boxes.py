"""Boxes from heatmaps, by a rule.

Everything that depends on the heat is worked out in whole numbers (see `threshold`, `mass` and
`components`), and what follows is float64 element by element: the box of a heatmap is the same
bit for bit whatever the batch and the device.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor

from ccrop_pipeline.localize.components import only_largest
from ccrop_pipeline.localize.mass import cells_with_mass
from ccrop_pipeline.localize.threshold import MAX_MAP_SIZE, pixels_above

Component = Literal["all", "largest"]


@dataclass(frozen=True)
class BoxRule:
    """What of a heatmap its box is drawn around; exactly one of `threshold` and `mass`.

    Attributes:
        threshold: The smallest rectangle around what is strictly above it in the upsampled
            heatmap; in [0, 1). The rule of ContrastiveCrop, k = 0.1 there.
        mass: The smallest rectangle of heatmap cells with at least this share of the sum of all
            cells; in (0, 1].
        component: Whether everything above the threshold counts, or its largest connected
            component only (most heatmap cells, joined along edges and corners).
        margin: Share of the box's own sides to add at each of its four sides, as far as the
            image goes; 0.1 makes a box 1.2 times as wide and high.
        min_size: Least side as a share of the image's; in [0, 1]. A smaller box is widened about
            its centre and moved into the image. Comes after the margin.

    Raises:
        ValueError: A value is out of its range, or two exclude each other.
    """

    threshold: float | None = 0.1
    mass: float | None = None
    component: Component = "all"
    margin: float = 0.0
    min_size: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if (self.threshold is None) == (self.mass is None):
            raise ValueError(
                "exactly one of threshold and mass must be given, "
                f"not {self.threshold} and {self.mass}"
            )
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), not {self.threshold}")
        if self.mass is not None and not 0 < self.mass <= 1:
            raise ValueError(f"mass must be in (0, 1], not {self.mass}")
        if self.component not in get_args(Component):
            raise ValueError(
                f"component must be one of {get_args(Component)}, not {self.component!r}"
            )
        if self.component == "largest" and self.mass is not None:
            raise ValueError("the largest component is of what a threshold leaves: give no mass")
        if not 0 <= self.margin < inf:
            raise ValueError(f"margin must be at least 0 and finite, not {self.margin}")
        if not 0 <= self.min_size <= 1:
            raise ValueError(f"min_size must be in [0, 1], not {self.min_size}")


def boxes_from_heatmaps(heatmaps: Tensor, rule: BoxRule, map_size: int) -> tuple[Tensor, Tensor]:
    """Return the boxes of heatmaps.

    Their edges are ``first / map_size`` and ``(last + 1) / map_size`` of the first and last
    content row and column, so that a map that is content throughout has the full box. The code
    published with the paper (xyupeng/ContrastiveCrop) has ``last / map_size``, a pixel short.

    Args:
        heatmaps: float16 ``(n, h, w)`` in [0, 1]; on a device that has float64.
        rule: What the boxes are drawn around.
        map_size: Side of the square that every heatmap is upsampled to for a threshold, in
            pixels; at most 11585. A mass is counted in cells and needs no upsampling.

    Returns:
        Boxes, float32 ``(n, 4)`` of ``x_min, y_min, x_max, y_max`` relative to the map; and
        ``found``, bool ``(n,)``: False where the rule finds no content, with the full box.

    Raises:
        ValueError: An argument is outside of what is described here.
    """
    _check(heatmaps, map_size)
    return located(heatmaps, rule, map_size)


def located(heatmaps: Tensor, rule: BoxRule, map_size: int) -> tuple[Tensor, Tensor]:
    """`boxes_from_heatmaps` of heatmaps that `min_max` made, unchecked.

    With a threshold and all components a GPU is given its work and not waited for.
    """
    height, width = heatmaps.shape[1:]
    if rule.threshold is not None:
        if rule.component == "largest":
            heatmaps = only_largest(heatmaps, rule.threshold)
        ends, found = pixels_above(heatmaps, rule.threshold, map_size)
        divisors = (map_size, map_size)
    else:
        assert rule.mass is not None
        ends, found = cells_with_mass(heatmaps, rule.mass)
        divisors = (width, height)
    x, y = (
        _grown(_shares(divisor, ends.device)[ends[:, axis::2]], rule)
        for axis, divisor in enumerate(divisors)
    )
    boxes = torch.stack([x, y], dim=2).flatten(1).to(torch.float32)
    full = torch.cat([torch.zeros_like(boxes[:, :2]), torch.ones_like(boxes[:, 2:])], dim=1)
    return torch.where(found[:, None], boxes, full), found


def _check(heatmaps: Tensor, map_size: int) -> None:
    if heatmaps.dtype != torch.float16 or heatmaps.ndim != 3 or 0 in heatmaps.shape[1:]:
        raise ValueError(
            "heatmaps must be float16 (n, h, w) with cells, "
            f"not {heatmaps.dtype} {tuple(heatmaps.shape)}"
        )
    if not bool(((heatmaps >= 0) & (heatmaps <= 1)).all()):
        raise ValueError("heatmaps must lie in [0, 1] throughout; min_max brings them there")
    if not 1 <= map_size <= MAX_MAP_SIZE:
        raise ValueError(f"map_size must be in 1 to {MAX_MAP_SIZE}, not {map_size}")


@lru_cache(maxsize=16)  # see `threshold`
def _shares(divisor: int, device: torch.device) -> Tensor:
    """The numbers 0 to divisor over the divisor, float64."""
    # Divided by Python, since devices differ in whether they divide or multiply by 1 / divisor.
    shares = [number / divisor for number in range(divisor + 1)]
    return torch.tensor(shares, dtype=torch.float64, device=device)


def _grown(ends: Tensor, rule: BoxRule) -> Tensor:
    """First and last end (n, 2) of the sides of boxes, with the rule's margin and least size."""
    margin = (ends[:, 1] - ends[:, 0]) * rule.margin
    low, high = (ends[:, 0] - margin).clamp(min=0), (ends[:, 1] + margin).clamp(max=1)
    missing = (rule.min_size - (high - low)).clamp(min=0) / 2
    low, high = low - missing, high + missing
    inwards = (-low).clamp(min=0) - (high - 1).clamp(min=0)
    return torch.stack([low + inwards, high + inwards], dim=1).clamp(0, 1)
