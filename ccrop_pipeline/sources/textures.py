"""Shapes, textures and backgrounds of the generated scenes."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

SCAN_LINES = 4  # a row; along a line, coverage is exact


def _polygon(corners: int, phase: float = 0.0) -> Floats:
    angle = 2 * np.pi * (np.arange(corners) + phase) / corners
    return np.stack([np.sin(angle), -np.cos(angle)], axis=1)


def _star(points: int, inner: float) -> Floats:
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return _polygon(2 * points) * radius[:, None]


def _cross(arm: float) -> Floats:
    quarter = np.array([[arm, -1.0], [arm, -arm], [1.0, -arm]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


# Outlines about the origin; y points down, as in images.
OUTLINES: dict[str, Floats] = {
    "disc": _polygon(48),
    "panel": _polygon(4, phase=0.5),
    "kite": _polygon(4),
    "triangle": _polygon(3),
    "star": _star(5, inner=0.5),
    "cross": _cross(arm=0.36),
}


def _edge(wave: Floats) -> Floats:
    # Between a sine and a square wave: sharp, yet without stair-steps.
    return np.asarray(0.5 + 0.5 * np.tanh(3.0 * wave))


def _dots(u: Floats, v: Floats) -> Floats:
    return _edge(np.cos(u) + np.cos(v) - 0.6)


# Textures over coordinates in radians, each with values in [0, 1].
TEXTURES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "striped": lambda _u, v: _edge(np.sin(v)),
    "barred": lambda u, _v: _edge(np.sin(u)),
    "checkered": lambda u, v: _edge(2.0 * np.sin(0.8 * u) * np.sin(0.8 * v)),
    "dotted": _dots,
    "ringed": lambda u, v: _edge(np.sin(np.hypot(u, v))),
    "spoked": lambda u, v: _edge(np.sin(7.0 * np.arctan2(v, u))),
    "woven": lambda u, v: _edge(np.sin(0.7 * (u + v))),
}


def coverage(outline: Floats, box: tuple[int, int, int, int], size: int) -> Floats:
    """Draw an outline stretched to fill a box.

    Args:
        outline: Corners, shape ``(n, 2)``, in any units.
        box: Pixels ``x_min, y_min, x_max, y_max``, half-open.
        size: Height and width of the image.

    Returns:
        Share of each pixel inside the outline, shape ``(size, size)``, values in [0, 1].
    """
    low, high = outline.min(axis=0), outline.max(axis=0)
    corner, extent = np.array(box[:2]), np.array(box[2:]) - box[:2]
    points = corner + (outline - low) / (high - low) * extent
    lines = (np.arange(size * SCAN_LINES) + 0.5) / SCAN_LINES
    crossings = _crossings(points, lines)
    pixels = np.arange(1, size + 1)
    # Between odd and even crossings a line runs inside: each adds, or takes away, all of the
    # line to its right.
    right_of = np.clip(pixels - crossings[..., None], 0, 1)
    signs = np.where(np.arange(crossings.shape[1]) % 2 == 0, 1.0, -1.0)
    share = np.einsum("lcp,c->lp", right_of, signs)
    return np.asarray(share.reshape(size, SCAN_LINES, size).mean(axis=1), dtype=np.float32)


def _crossings(points: Floats, lines: Floats) -> Floats:
    """Return the sorted x at which horizontal lines cross a polygon's edges, inf beyond the last.

    Shape ``(lines, most crossings of any line)``.
    """
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    y = lines[:, None]
    rise = np.where(y0 == y1, 1.0, y1 - y0)
    crossed = (y < y0) != (y < y1)
    crossings = np.sort(np.where(crossed, x0 + (y - y0) / rise * (x1 - x0), np.inf), axis=1)
    return np.asarray(crossings[:, : int(crossed.sum(axis=1).max())])


def background(size: int, rng: np.random.Generator) -> Floats:
    """Draw coloured noise whose amplitude falls about as 1/f, as in photographs.

    Field (1987), Journal of the Optical Society of America A 4(12), found the law, Tolhurst et
    al. (1992), Ophthalmic and Physiological Optics 12(2), exponents of 0.8 to 1.5 from image
    to image: 1.4 or 1.5 here. Colour lies mostly along brightness, less along blue-yellow,
    least along red-green, the axes Ruderman et al. (1998), JOSA A 15(8), found in natural
    images; that it varies more slowly than brightness, and by how much, is our choice.

    Returns:
        RGB, shape ``(size, size, 3)``, mostly within [0, 1], not clipped.
    """
    step = int(rng.integers(4, 6))
    decay = np.stack([_decay(size, step), colour := _decay(size, step + 3), colour])
    spectrum = rng.standard_normal((2, *decay.shape), dtype=np.float32)
    planes = np.fft.irfft2((spectrum[0] + 1j * spectrum[1]) * decay, s=(size, size))
    planes /= planes.std(axis=(1, 2), keepdims=True)
    contrast = rng.uniform(0.8, 1.2) * np.array([0.05, 0.014, 0.01])
    mean = np.array([rng.uniform(0.42, 0.55), rng.normal(0, 0.012), rng.normal(0, 0.008)])
    planes = planes * contrast[:, None, None] + mean[:, None, None]
    # Light from above, or below, as over a landscape.
    planes[0] += rng.normal(0, 0.04) * np.linspace(-1, 1, size)[:, None]
    return np.asarray(np.moveaxis(planes, 0, -1) @ _OPPONENT, dtype=np.float32)


# Rows: brightness, yellow against blue, red against green.
_OPPONENT = np.array([[1.0, 1.0, 1.0], [0.7, 0.7, -1.4], [1.2, -1.2, 0.0]])


@lru_cache(maxsize=64)
def _decay(size: int, step: int) -> Floats:
    vertical = np.fft.fftfreq(size)[:, None]
    frequency = np.hypot(vertical, np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    return np.asarray(frequency ** -(1.0 + 0.1 * step))
