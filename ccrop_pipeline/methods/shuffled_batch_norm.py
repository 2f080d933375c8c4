"""Shuffled batch norm of MoCo's key encoder, the same for any number of processes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccrop_pipeline.methods.batch_norm import exchange, track
from ccrop_pipeline.methods.gather import gathered, rank, world_size
from ccrop_pipeline.methods.precision import at_least_float32


class Shuffle:
    """Which images of the whole batch are normalised together.

    The papers shuffle images over 8 GPUs, each of which normalises its own (section 3.3 of MoCo,
    arXiv:1911.05722). Here the number of groups is a setting of its own. The permutation comes
    from torch's generator on the CPU, which must stand alike in all processes.

    Args:
        groups: Groups a batch is cut into; fewer where some would have less than two images.
    """

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.sizes: list[int] = []
        self.members = torch.empty(0, dtype=torch.long)

    def draw(self, images: int) -> Tensor:
        """Draws groups anew.

        Args:
            images: Images of this process; all have as many.

        Returns:
            Order in which this process must pass its images on: group by group, int64, on the
            CPU.
        """
        total = images * world_size()
        permutation = torch.randperm(total)
        members = torch.empty(total, dtype=torch.long)
        for group, part in enumerate(
            permutation.tensor_split(max(1, min(self.groups, total // 2)))
        ):
            members[part] = group
        by_process = members.view(-1, images)
        mine = by_process[rank()]
        self.sizes = torch.bincount(mine).tolist()
        self.members = by_process.sort(dim=1).values.flatten()
        return mine.argsort(stable=True)


class ShuffledBatchNorm(nn.BatchNorm2d):
    """Batch norm by groups of images of all processes; in evaluation it is plain batch norm.

    No gradient passes through: the key encoder has none.
    """

    shuffle: Shuffle

    def forward(self, images: Tensor) -> Tensor:
        """Normalises (B, C, H, W), given in the order that the shuffle asked for."""
        if not self.training:
            return super().forward(images)
        return self._of_one(images) if world_size() == 1 else self._of_all(images)

    def _of_one(self, images: Tensor) -> Tensor:
        size = (len(self.shuffle.sizes), self.num_features)
        means, variances = self.weight.new_zeros(size), self.weight.new_ones(size)
        parts = [
            # Running statistics of momentum 1 are those of the batch.
            F.batch_norm(part, mean, var, self.weight, self.bias, True, 1.0, self.eps)
            for part, mean, var in zip(
                torch.split(images, self.shuffle.sizes), means, variances, strict=True
            )
        ]
        track(self, means.mean(0), variances.mean(0))
        return torch.cat(parts)

    def _of_all(self, images: Tensor) -> Tensor:
        # Statistics travel, images stay where they are.
        values = at_least_float32(images)
        var, mean = torch.var_mean(values, (2, 3), correction=0)
        var, mean = gathered(torch.stack([var, mean], dim=1)).unbind(1)
        members = self.shuffle.members.to(images.device)
        number = torch.bincount(members).unsqueeze(1)
        empty = mean.new_zeros(len(number), self.num_features)
        means = empty.index_add(0, members, mean) / number
        var = var + (mean - means[members]).square()
        variances = empty.index_add(0, members, var) / number
        cells = number * images[0, 0].numel()
        track(self, means.mean(0), (variances * cells / (cells - 1)).mean(0))
        mine = members.view(world_size(), -1)[rank()]
        scale = (variances + self.eps).rsqrt()[mine] * self.weight
        normal = (values - means[mine][:, :, None, None]) * scale[:, :, None, None]
        return (normal + self.bias[:, None, None]).to(images.dtype)


def shuffled(module: nn.Module, shuffle: Shuffle) -> None:
    """Exchanges plain batch norm of images inside a module for shuffled batch norm."""

    def make(norm: nn.modules.batchnorm._BatchNorm) -> ShuffledBatchNorm:
        layer = ShuffledBatchNorm(norm.num_features, norm.eps, norm.momentum)
        layer.shuffle = shuffle
        return layer

    exchange(module, make)
