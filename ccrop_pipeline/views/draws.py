"""What happens to each view of a group: random numbers turned into strengths and orders."""

from dataclasses import dataclass
from itertools import permutations
from typing import Final

import numpy as np

from ccrop_pipeline.views.settings import AugmentSettings

# Jitter or not, its order, its four factors, grayscale or not, flip or not, blur or not, its
# sigma, solarize or not. New numbers are appended, so that the old ones keep their values.
UNIFORMS_PER_VIEW: Final = 11

BRIGHTNESS, CONTRAST, SATURATION, HUE, SKIP = range(5)
ORDERS: Final = np.array(list(permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE))))
_NO_JITTER = len(ORDERS)
_STEPS = np.vstack([ORDERS, np.full(4, SKIP)])
# Views are sorted by the time of their hue shift, the dearest step, then by the whole order.
_RANKS = np.lexsort(np.vstack([np.arange(len(_STEPS)), (_STEPS == HUE).argmax(1)])).argsort()


@dataclass(frozen=True)
class Draws:
    """What n views get. They are sorted so that long runs take the same step at the same time.

    Attributes:
        rows: int64 (n,), where each view stands in its group.
        steps: int64 (n, 4), the jitter's steps in the order of their application, or `SKIP`.
        factors: float32 (n, 4), factors of brightness, contrast and saturation, and the shift of
            the hue in turns.
        grey: bool (n,), whether the view loses its colour.
        sigma: float32 (n,), standard deviation of the blur in pixels, 0 for none.
        solarized: bool (n,).
        flipped: bool (n,).
    """

    rows: np.ndarray
    steps: np.ndarray
    factors: np.ndarray
    grey: np.ndarray
    sigma: np.ndarray
    solarized: np.ndarray
    flipped: np.ndarray


def draw(randoms: np.ndarray, settings: AugmentSettings) -> Draws:
    """Strengths and orders from uniform numbers.

    Args:
        randoms: float64 (n, UNIFORMS_PER_VIEW) in (0, 1).
        settings: Strengths and probabilities.
    """
    s = settings
    orders = np.where(
        randoms[:, 0] < s.jitter_p, (randoms[:, 1] * len(ORDERS)).astype(int), _NO_JITTER
    )
    rows = np.argsort(_RANKS[orders], kind="stable")
    orders, randoms = orders[rows], randoms[rows]
    ranges = np.array([s.brightness, s.contrast, s.saturation, s.hue])
    lows = np.append(np.maximum(0, 1 - ranges[:3]), -s.hue)
    highs = np.append(1 + ranges[:3], s.hue)
    # A step of no strength is left out; SKIP stays SKIP.
    kept = np.where(np.append(ranges, 0) > 0, np.arange(SKIP + 1), SKIP)
    least, largest = s.blur_sigma
    sigma = np.where(randoms[:, 8] < s.blur_p, least + (largest - least) * randoms[:, 9], 0)
    return Draws(
        rows=rows,
        steps=kept[_STEPS[orders]],
        factors=(lows + (highs - lows) * randoms[:, 2:6]).astype(np.float32),
        grey=randoms[:, 6] < s.grayscale_p,
        sigma=sigma.astype(np.float32),
        solarized=randoms[:, 10] < s.solarize_p,
        flipped=randoms[:, 7] < s.flip_p,
    )
