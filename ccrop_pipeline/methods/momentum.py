"""Momentum encoders: slow copies that no gradient reaches."""

import copy
import math
from typing import TypeVar

from lightly.models.utils import deactivate_requires_grad
from torch import nn

M = TypeVar("M", bound=nn.Module)


def follower(module: M) -> M:
    """A copy of a module, equal to it and without gradient."""
    copied = copy.deepcopy(module)
    deactivate_requires_grad(copied)
    return copied


def cosine_momentum(start: float, progress: float) -> float:
    """Share of a momentum encoder that a step keeps: from `start` to 1 by half a cosine.

    Section 3.2 of BYOL (arXiv:2006.07733): 1 - (1 - start) (cos(pi k / K) + 1) / 2.

    Args:
        start: The share in the first step, in [0, 1).
        progress: Steps taken / steps of the run, k / K.
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
