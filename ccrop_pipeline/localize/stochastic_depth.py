"""Stochastic depth: what a block adds is left out for some of the images while a network trains.

Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016 (arXiv:1603.09382); "drop path" in
timm.
"""

import torch
from torch import Tensor, nn

# What the libraries call it, and the attribute that holds the rate.
_THEIRS = {"DropPath": "drop_prob", "StochasticDepth": "p"}


class DropPath(nn.Module):
    """Leaves out a branch for a share of the images, and scales it up for the rest.

    Stands in for those of the libraries, which know of one process only: here the images of a
    batch lose the same branches however many processes share it. The draws are those of torch's
    generator on the device, which the driver seeds alike in every process at each step.

    Args:
        rate: Share of the images that lose the branch, in [0, 1).

    Attributes:
        share: Images of a view in this process, its rank and the number of processes.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.share: tuple[int, int, int] | None = None

    def forward(self, branch: Tensor) -> Tensor:
        """Return (B, ...), each row either 0 or divided by the share that is kept."""
        if not (self.training and self.rate):
            return branch
        kept = self._draws(len(branch), branch.device) >= self.rate
        factors = kept.to(branch.dtype) / (1 - self.rate)
        return branch * factors.view(-1, *[1] * (branch.ndim - 1))

    def _draws(self, rows: int, device: torch.device) -> Tensor:
        if self.share is None:
            return torch.rand(rows, device=device)
        images, rank, count = self.share
        if rows % images:
            images = rows
        # One process alone has all first views, then all second ones, where a pass has several.
        return torch.rand(rows // images, count, images, device=device)[:, rank].flatten()

    def extra_repr(self) -> str:
        """Return the rate."""
        return f"rate={self.rate:.3g}"


def drop_paths(network: nn.Module, rate: float) -> bool:
    """Set the stochastic depth of a network of a library.

    Rates keep the proportions of the library, which mostly grow linearly from 0 with the depth of
    the block; the largest of them becomes `rate`.

    Args:
        network: Changed in place.
        rate: Largest rate of a branch, in [0, 1).

    Returns:
        Whether the network has branches that can be left out.
    """
    theirs = {
        name: float(getattr(part, _THEIRS[type(part).__name__]))
        for name, part in network.named_modules(remove_duplicate=False)
        if type(part).__name__ in _THEIRS
    }
    largest = max(theirs.values(), default=0.0)
    for name, own in theirs.items():
        network.set_submodule(name, DropPath(rate * own / largest if largest else 0.0))
    return largest > 0


def keep_paths(module: nn.Module) -> None:
    """Leave nothing out any more."""
    for part in _of(module):
        part.rate = 0.0


def share_paths(module: nn.Module, images: int, *, rank: int, count: int) -> None:
    """Let several processes draw as one that has the whole batch.

    Args:
        module: Changed in place.
        images: Images of a view in each process.
        rank: Of this process, in [0, count).
        count: Number of processes.
    """
    for part in _of(module):
        part.share = images, rank, count


def _of(module: nn.Module) -> list[DropPath]:
    return [part for part in module.modules() if isinstance(part, DropPath)]
