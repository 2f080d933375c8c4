"""Crop windows for a batch of boxes: a pure function of boxes, image sizes and uniform numbers.

The window's size is that of torchvision's RandomResizedCrop: ten candidates, the first that fits,
else the largest of an allowed shape. A rule then says where the window goes, each axis by itself:

- `official`: what the ContrastiveCrop authors' program does, for reproduction; it never quite
  reaches the far edge, and stands still for a box at a border.
- `paper`: the window's centre follows Beta over the box; a window that would stick out is pushed
  back into the image.
- `overlap`: Beta over all corners for which window and box share enough.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base.values import check_ranges, ranged
from ccrop_pipeline.errors import SettingError

_NODES: Final = 4097


def symmetric_beta(uniforms: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Map uniform numbers to Beta(alpha, alpha).

    Interpolates linearly in a table of the exact quantiles: within 4e-8 of them for alpha up to 5
    and 4e-6 up to 100, at a twentieth of the cost of inverting the function for every number.

    Args:
        uniforms: Any shape, in [0, 1].
        alpha: In [0.01, 100]. 1 is the identity, below 1 seeks the ends, above 1 the middle.

    Returns:
        The same shape, in [0, 1]; u and 1 - u give b and 1 - b.
    """
    if alpha == 1:
        return uniforms
    # Near 0 the quantile goes as u ** (1 / alpha): on that axis it is almost a straight line.
    axis, quantiles = _lower_half(alpha)
    lower = np.interp(np.minimum(uniforms, 1 - uniforms) ** (1 / alpha), axis, quantiles)
    return np.where(uniforms < 0.5, lower, 1 - lower)


@lru_cache(maxsize=16)
def _lower_half(alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Here, since it takes longer to import than everything else in this folder.
    from scipy.special import betaincinv

    axis = np.linspace(0, 0.5 ** (1 / alpha), _NODES)
    return axis, betaincinv(alpha, alpha, axis**alpha)


Rule = Literal["official", "paper", "overlap"]
RULES: Final[tuple[Rule, ...]] = get_args(Rule)

_CANDIDATES: Final = 10  # as many as RandomResizedCrop tries
UNIFORMS_PER_WINDOW: Final = 2 * _CANDIDATES + 2

# A thousandth of a pixel, to forgive the rounding of boxes kept in float32.
_TOLERANCE: Final = 1e-3
_BELOW_ONE: Final = np.nextafter(np.float32(1), np.float32(0))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CropParams:
    """How windows are drawn.

    Attributes:
        rule: Where windows go, one of `RULES`.
        alpha: Of Beta(alpha, alpha), in [0.01, 100]; 1 uniform, below 1 away from the centre.
        scale: Least and largest window area as a share of the image's, in (0, 1].
        ratio: Least and largest width / height of a window before rounding to pixels, above 0.
        min_overlap: Share of the smaller of window and box that must be common to both, along
            each axis, in (0, 1]; only `overlap` uses it.

    Raises:
        SettingError: If a value is out of range.
    """

    rule: Rule = "paper"
    alpha: float = ranged(0.6, "[0.01, 100]")
    scale: tuple[float, float] = ranged((0.2, 1.0), "(0, 1]")
    ratio: tuple[float, float] = ranged((3 / 4, 4 / 3), "[0.01, 100]")
    min_overlap: float = ranged(0.5, "(0, 1]")

    def __post_init__(self) -> None:
        """Check the ranges above."""
        if self.rule not in RULES:
            raise SettingError(f"rule is {self.rule!r}; it must be one of {', '.join(RULES)}.")
        check_ranges(self)
        for name in ("scale", "ratio"):
            ends = getattr(self, name)
            if len(ends) != 2 or ends[0] > ends[1]:
                raise SettingError(
                    f"{name} is {ends}; it must be two numbers, the second not below the first."
                )


def sample_windows(
    boxes: NDArray[np.floating],
    sizes: NDArray[np.integer],
    uniforms: Floats,
    params: CropParams,
) -> NDArray[np.int64]:
    """Draw one crop window for each image.

    Args:
        boxes: (n, 4) normalised x_min, y_min, x_max, y_max; a box may be empty.
        sizes: (n, 2) width and height of the images in pixels, at least 1.
        uniforms: (n, UNIFORMS_PER_WINDOW) float64 in [0, 1]: ten for the areas, ten for the
            shapes, one for the position along x, one along y. Replacing the last two by 1 - u
            mirrors the windows of mirrored boxes, except under `official`.
        params: The rule and its numbers.

    Returns:
        (n, 4) int64 top, left, height, width, inside the image and at least one pixel.

    Raises:
        ValueError: If a shape is wrong, a size is below 1, or a box is not finite, not ordered or
            not within the image.
    """
    _check(boxes, sizes, uniforms)
    images = sizes.astype(np.float64)
    windows = _window_sizes(images, uniforms, params)
    slack = images - windows
    beta = symmetric_beta(uniforms[:, 2 * _CANDIDATES :], params.alpha)
    if params.rule == "official":
        corners = _official(boxes, images, windows, slack, beta)
    else:
        near, far = boxes[:, :2] * images, boxes[:, 2:] * images
        if params.rule == "paper":
            corners = _paper(near, far, windows, slack, beta)
        else:
            corners = _overlap(near, far, windows, slack, beta, params.min_overlap)
    # Above everything counts as (x, y); a window is written (y, x).
    return np.concatenate([corners[:, ::-1], windows[:, ::-1]], axis=1).astype(np.int64)


def _window_sizes(images: Floats, uniforms: Floats, params: CropParams) -> Floats:
    """Return (n, 2) width and height: the first candidate that fits the image.

    RandomResizedCrop's rule. Where nothing fits (a panorama), its fallback gives the size, but not
    the position: there the rule still counts, so that the box does.
    """
    chosen = _candidate(0, images, uniforms, params)
    # Few images need a second candidate, and next to none a third.
    failed = _unfit(chosen, images)
    for candidate in range(1, _CANDIDATES):
        if not len(failed):
            return chosen
        chosen[failed] = _candidate(candidate, images[failed], uniforms[failed], params)
        failed = failed[_unfit(chosen[failed], images[failed])]
    chosen[failed] = _largest_sizes(images[failed], *params.ratio)
    return chosen


def _candidate(number: int, images: Floats, uniforms: Floats, params: CropParams) -> Floats:
    (small, large), (narrow, wide) = params.scale, params.ratio
    areas = images[:, 0] * images[:, 1] * (small + (large - small) * uniforms[:, number])
    draws = uniforms[:, _CANDIDATES + number]
    shapes = np.exp(log(narrow) + (log(wide) - log(narrow)) * draws)
    return np.rint(np.sqrt(np.stack([areas * shapes, areas / shapes], axis=1)))


def _unfit(windows: Floats, images: Floats) -> NDArray[np.intp]:
    """Return the rows of windows that are empty or larger than their images."""
    return np.flatnonzero(((windows < 1) | (windows > images)).any(axis=1))


def _largest_sizes(images: Floats, narrow: float, wide: float) -> Floats:
    """Return the largest windows of allowed shape: whole images, less what is too long."""
    other_side = images[:, ::-1] * (wide, 1 / narrow)
    return np.minimum(images, np.maximum(1, np.rint(other_side)))


def _official(
    boxes: NDArray[np.floating], images: Floats, windows: Floats, slack: Floats, beta: Floats
) -> Floats:
    """Draw Beta over the corners between the ends of the box, as the authors' program has it.

    Source: https://github.com/xyupeng/ContrastiveCrop. Centres on the box's ends are clamped into
    the image *before* the draw, and both conversions to integers cut off. Their boxes and draws
    are float32 tensors, so both products are rounded to float32 first, and `Beta.sample` of torch
    gives no more than the number below 1, so that the far edge is never reached. The only
    departure is that their central fallback for panoramas is not followed.
    """
    sides, half = np.tile(images, 2).astype(np.float32), np.tile(windows // 2, 2)
    ends = np.trunc(boxes.astype(np.float32) * sides) - half
    first, last = np.split(np.clip(ends, 0, np.tile(slack, 2)), 2, axis=1)
    draws = np.minimum(beta.astype(np.float32), _BELOW_ONE)
    corners: Floats = first + np.trunc((last - first).astype(np.float32) * draws)
    return corners


def _paper(near: Floats, far: Floats, windows: Floats, slack: Floats, beta: Floats) -> Floats:
    """Draw Beta over the box for the centre (Peng et al., CVPR 2022, section 3), clamped."""
    corners = near + (far - near) * beta - windows / 2
    # A half is rounded away from the middle of the draw: up or down alike, as mirroring demands.
    rounded = np.where(beta < 0.5, np.ceil(corners - 0.5), np.floor(corners + 0.5))
    return np.minimum(np.maximum(rounded, 0), slack)


def _overlap(
    near: Floats, far: Floats, windows: Floats, slack: Floats, beta: Floats, min_overlap: float
) -> Floats:
    """Draw Beta over the integer corners whose window shares enough with the box.

    Along one axis let the image be [0, N], the box [p, q] and the window [c, c + w]. They share
    min(c + w, q) - max(c, p), the least of four terms: c + w - p, q - c, w and q - p. It must be
    at least s = min_overlap * min(w, q - p). The last two terms always are; the first two say

        p + s - w  <=  c  <=  q - s.

    Together with 0 <= c <= N - w the range is never empty, for p + s <= q <= N and q - s >= p >= 0.
    For min_overlap = 1/2 it reads: if the window is the smaller, its centre is in the box, so c
    runs from p - w/2 to q - w/2, the authors' range; if the box is, its centre is in the window.
    For the whole image p = 0 and q = N, so every corner 0 ... N - w is in the range, and alpha = 1
    picks one with equal chances, as RandomResizedCrop does.

    An integer may be missing from the range when min_overlap > 1/2 (its length is
    w + (q - p) - 2s, and at least w for 1/2). It then lies between two neighbours, which `ceil`
    and `floor` return in the wrong order: put in order they are the best two corners there are.
    """
    shared = min_overlap * np.minimum(windows, far - near)
    first = np.clip(np.ceil(near + shared - windows - _TOLERANCE), 0, slack)
    last = np.clip(np.floor(far - shared + _TOLERANCE), 0, slack)
    first, last = np.minimum(first, last), np.maximum(first, last)
    # Beta may round to 1: the last corner is not passed.
    corners: Floats = np.minimum(first + np.floor((last - first + 1) * beta), last)
    return corners


def _check(
    boxes: NDArray[np.floating], sizes: NDArray[np.integer], uniforms: NDArray[np.floating]
) -> None:
    n = len(boxes)
    if (boxes.shape, sizes.shape, uniforms.shape) != ((n, 4), (n, 2), (n, UNIFORMS_PER_WINDOW)):
        raise ValueError(
            f"shapes must be (n, 4), (n, 2), (n, {UNIFORMS_PER_WINDOW}), "
            f"not {boxes.shape}, {sizes.shape}, {uniforms.shape}."
        )
    if n and sizes.min() < 1:
        raise ValueError(f"image sizes must be at least 1, not {sizes.min()}.")
    ordered = (boxes[:, :2] >= 0) & (boxes[:, :2] <= boxes[:, 2:]) & (boxes[:, 2:] <= 1)
    if not ordered.all():
        bad = int(np.flatnonzero(~ordered.all(axis=1))[0])
        raise ValueError(
            f"box {bad} must be 0 <= x_min <= x_max <= 1 and so for y, not {boxes[bad].tolist()}."
        )
