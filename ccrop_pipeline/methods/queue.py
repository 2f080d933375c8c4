"""Negatives from earlier batches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccrop_pipeline.methods.gather import gathered


class Queue(nn.Module):
    """The newest keys, first in first out, as negatives.

    Stands in for the memory bank of lightly's loss, which its ``state_dict`` leaves out: a run
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

    def forward(self, keys: Tensor, update: bool = False) -> tuple[Tensor, Tensor]:
        """Returns `keys` (B, dim) and the held negatives (dim, size), then takes `keys` in."""
        negatives = self.keys.clone().T
        if update:
            size = len(self.keys)
            newest = gathered(keys.detach())[-size:]
            slots = (self.oldest + torch.arange(len(newest), device=keys.device)) % size
            self.keys[slots] = newest
            self.oldest.add_(len(newest)).remainder_(size)
        return keys, negatives
