"""What methods share: the rows of all processes, queues, momentum encoders."""

import copy
import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from lightly.models.utils import deactivate_requires_grad
from lightly.utils.dist import gather, rank, world_size
from torch import Tensor, nn

from ccrop_pipeline.localize.stochastic_depth import keep_paths

__all__ = ["gathered", "rank", "world_size"]


def gathered(rows: Tensor) -> Tensor:
    """Return the rows of all processes by rank, (W * B, ...) from (B, ...) each.

    The gradient of a row is the sum of what all processes do with it. Together with the mean over
    processes that follows a backward pass, it is the gradient of the mean of their losses.
    One process alone gets its own rows back.
    """
    if world_size() == 1:
        return rows
    return torch.cat(gather(rows.contiguous()))


class OfWholeBatch(nn.Module):
    """A loss that looks at whole columns, and so needs the embeddings of all processes.

    Each process computes the same number.

    Args:
        criterion: Takes two (B, dim) embeddings.
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss of the embeddings of all processes."""
        loss: Tensor = self.criterion(gathered(first), gathered(second))
        return loss


class Queue(nn.Module):
    """The newest keys, first in first out, as negatives.

    Stands in for the memory bank of lightly's loss, which its `state_dict` leaves out: a run
    that lost its queue would not resume where it was. It takes in the keys of all processes in
    the order of their ranks, so that every process holds the same queue.

    Args:
        size: Number of keys held.
        dim: Length of a key.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.keys: Tensor
        self.oldest: Tensor
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))

    def forward(self, keys: Tensor, *, update: bool = False) -> tuple[Tensor, Tensor]:
        """Return `keys` (B, dim) and the held negatives (dim, size), and then take `keys` in."""
        negatives = self.keys.clone().T
        if update:
            size = len(self.keys)
            newest = gathered(keys.detach())[-size:]
            slots = (self.oldest + torch.arange(len(newest), device=keys.device)) % size
            self.keys[slots] = newest
            self.oldest.add_(len(newest)).remainder_(size)
        return keys, negatives


def at_least_float32(values: Tensor) -> Tensor:
    """Return values of lower precision as float32, others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def embedding_std(embeddings: Tensor) -> Tensor:
    """Return how far embeddings spread over the sphere.

    The standard deviation of l2-normalised embeddings, averaged over dimensions, is about
    1 / sqrt(dim) when they spread evenly and 0 when they all agree (section 4.1 of SimSiam,
    arXiv:2011.10566). Here it is multiplied by sqrt(dim), so that methods can be compared.

    Args:
        embeddings: (B, dim), B of 2 or more.

    Returns:
        Scalar float32: about 1 when spread evenly, 0 when collapsed to a point.
    """
    directions = F.normalize(embeddings.detach().float(), dim=1)
    return directions.std(dim=0, correction=0).mean() * math.sqrt(embeddings.shape[1])


M = TypeVar("M", bound=nn.Module)


def momentum_copy(module: M) -> M:
    """Return a copy of a module, equal to it, without gradient and without stochastic depth.

    As the teacher in the program of DINO's authors (main_dino.py of facebookresearch/dino).
    """
    copied = copy.deepcopy(module)
    keep_paths(copied)
    deactivate_requires_grad(copied)
    return copied


def cosine_momentum(start: float, progress: float) -> float:
    """Return the share of a momentum encoder that a step keeps: from `start` to 1 by half a cosine.

    Section 3.2 of BYOL (arXiv:2006.07733): 1 - (1 - start) (cos(pi k / K) + 1) / 2.

    Args:
        start: The share in the first step, in [0, 1).
        progress: Steps taken / steps of the run, k / K.
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
