"""Rows of all processes. With one process, nothing happens."""

import torch
from lightly.utils.dist import gather, rank, world_size
from torch import Tensor, nn

__all__ = ["OfWholeBatch", "gathered", "rank", "world_size"]


def gathered(rows: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, (W * B, ...) from (B, ...) each.

    The gradient of a row is the sum of what all processes do with it. Together with the mean over
    processes that follows a backward pass, it is the gradient of the mean of their losses.
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
        """The loss of the embeddings of all processes."""
        loss: Tensor = self.criterion(gathered(first), gathered(second))
        return loss
