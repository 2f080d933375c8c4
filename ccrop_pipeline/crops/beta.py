"""Beta(alpha, alpha) numbers from uniform ones, by the inverse distribution function."""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

ALPHA_RANGE: Final = (0.01, 100.0)
_NODES: Final = 4097


def symmetric_beta(uniforms: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Map uniform numbers to Beta(alpha, alpha).

    Interpolates linearly in a table of the exact quantiles: within 4e-8 of them for alpha up to 5
    and 4e-6 up to 100, at a twentieth of the cost of inverting the function for every number.

    Args:
        uniforms: any shape, in [0, 1].
        alpha: in `ALPHA_RANGE`. 1 is the identity, below 1 seeks the ends, above 1 the middle.

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
