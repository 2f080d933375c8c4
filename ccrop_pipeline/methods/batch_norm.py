"""Batch norm over the images of all processes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from lightly.utils.dist import gather
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ccrop_pipeline.localize import to_device
from ccrop_pipeline.methods.shared import at_least_float32, gathered, rank, world_size

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d)


class SynchronisedBatchNorm(_BatchNorm):
    """Batch norm over all processes wherever they can gather; torch's own needs a GPU.

    Each process gives mean and variance of its part, which are put together as in Chan et al.,
    "Updating formulae and a pairwise algorithm for computing sample variances", 1979: a sum of
    squares would lose digits where the mean is far from 0.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch norm takes (B, C, ...), not {tuple(input.shape)}")

    def forward(self, images: Tensor) -> Tensor:
        """Normalise (B, C, ...) by channel."""
        if not self.training:
            return super().forward(images)
        dims = [dim for dim in range(images.ndim) if dim != 1]
        values = at_least_float32(images)
        var, mean = torch.var_mean(values, dims, correction=0)
        number = torch.full_like(mean, images.numel() / images.shape[1])
        numbers, means, variances = torch.stack(gather(torch.stack([number, mean, var]))).unbind(1)
        total = numbers.sum(0)
        mean = (numbers * means).sum(0) / total
        var = (numbers * (variances + (means - mean).square())).sum(0) / total
        self._track(mean.detach(), (var * total / (total - 1)).detach())
        shape = (1, -1, *[1] * (images.ndim - 2))
        normal = (values - mean.view(shape)) * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(images.dtype)

    def _track(self, mean: Tensor, unbiased_var: Tensor) -> None:
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            track(self, mean, unbiased_var)


def track(norm: _BatchNorm, mean: Tensor, unbiased_var: Tensor) -> None:
    """Move running statistics towards those of a batch, as batch norm of torch does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(unbiased_var, norm.momentum)


def synchronise(module: nn.Module) -> None:
    """Exchange plain batch norm inside a module for one that covers all processes."""
    on_gpu = any(parameter.is_cuda for parameter in module.parameters())
    kind = nn.SyncBatchNorm if on_gpu else SynchronisedBatchNorm
    exchange(module, lambda norm: kind(norm.num_features, norm.eps, norm.momentum, norm.affine))


def exchange(module: nn.Module, make: Callable[[_BatchNorm], _BatchNorm]) -> None:
    """Put other layers in the place of plain batch norm, with its parameters and buffers."""
    for name, child in module.named_children():
        activates = isinstance(child, nn.BatchNorm2d) and hasattr(child, "act")  # timm's
        if type(child) in _PLAIN or activates:
            assert isinstance(child, _BatchNorm)
            new = make(child)
            if activates:
                new.drop, new.act = child.drop, child.act
                new.register_forward_hook(lambda norm, _args, out: norm.act(norm.drop(out)))
            # The very tensors: optimizers and momentum encoders may hold them already.
            new._parameters, new._buffers = child._parameters, child._buffers
            new.train(child.training)
            setattr(module, name, new)
        else:
            exchange(child, make)


class Shuffle:
    """Which images of the whole batch are normalised together.

    The papers shuffle images over 8 GPUs, each of which normalises its own (section 3.3 of MoCo,
    arXiv:1911.05722). Here the number of groups is a setting of its own. The permutation comes
    from torch's generator on the CPU, which must be in the same state in all processes.

    Args:
        groups: Groups a batch is cut into; fewer where some would have less than two images.

    Attributes:
        sizes: Images of this process in each group, in the order of `draw`; all that one process
            alone needs, so that what follows is there for several only.
        averaging: float32 (groups, images of all processes): what each image adds to the mean of
            its group; images are ordered by process, in the order of `draw` within each.
        group_of: int64 (images of all processes,), likewise.
        counts: float32 (groups,), images of all processes in each.
    """

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.sizes: list[int] = []
        self.averaging = torch.empty(0, 0)
        self.group_of = torch.empty(0, dtype=torch.long)
        self.counts = torch.empty(0)

    def draw(self, images: int, device: torch.device | str = "cpu") -> Tensor:
        """Draw groups anew.

        Args:
            images: Images of this process; all have as many.
            device: Where the images are.

        Returns:
            Order in which this process must pass its images on: group by group, int64, on their
            device.
        """
        total = images * world_size()
        groups = max(1, min(self.groups, total // 2))
        drawn = torch.empty(total, dtype=torch.long)
        for group, part in enumerate(torch.randperm(total).tensor_split(groups)):
            drawn[part] = group
        by_process = drawn.view(-1, images)
        mine = by_process[rank()]
        self.sizes = torch.bincount(mine).tolist()
        if world_size() > 1:
            self._prepare(by_process.sort(dim=1).values.flatten(), groups, device)
        return to_device(mine.argsort(stable=True), device)

    def _prepare(self, group_of: Tensor, groups: int, device: torch.device | str) -> None:
        # Once a step and not in each of some fifty layers, which would wait for the GPU every time.
        member = F.one_hot(group_of, groups).T.float()
        counts = member.sum(1)
        self.averaging = to_device(member / counts[:, None], device)
        self.group_of, self.counts = to_device(group_of, device), to_device(counts, device)


class ShuffledBatchNorm(nn.BatchNorm2d):
    """Batch norm by groups of images of all processes; in evaluation it is plain batch norm.

    No gradient passes through: the key encoder has none.
    """

    shuffle: Shuffle

    def forward(self, images: Tensor) -> Tensor:
        """Normalise (B, C, H, W), given in the order that the shuffle asked for."""
        if not self.training:
            return super().forward(images)
        return self._of_one(images) if world_size() == 1 else self._of_all(images)

    def _of_one(self, images: Tensor) -> Tensor:
        size = (len(self.shuffle.sizes), self.num_features)
        means, variances = self.weight.new_zeros(size), self.weight.new_ones(size)
        parts = [
            # Running statistics of momentum 1 are those of the batch.
            F.batch_norm(
                part, mean, var, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
            )
            for part, mean, var in zip(
                torch.split(images, self.shuffle.sizes), means, variances, strict=True
            )
        ]
        track(self, means.mean(0), variances.mean(0))
        return torch.cat(parts)

    def _of_all(self, images: Tensor) -> Tensor:
        # Statistics travel, images stay where they are. Sums are products with a matrix: the same
        # bits in every process, which atomic additions on a GPU would not give.
        shuffle, values = self.shuffle, at_least_float32(images)
        var, mean = torch.var_mean(values, (2, 3), correction=0)
        var, mean = gathered(torch.stack([var, mean], dim=1)).unbind(1)
        averaging, counts = shuffle.averaging.to(mean.dtype), shuffle.counts.to(mean.dtype)
        with torch.autocast(images.device.type, enabled=False):
            means = averaging @ mean
            variances = averaging @ (var + (mean - means[shuffle.group_of]).square())
        cells = counts[:, None] * images[0, 0].numel()
        track(self, means.mean(0), (variances * cells / (cells - 1)).mean(0))
        mine = shuffle.group_of.view(world_size(), -1)[rank()]
        scale = (variances + self.eps).rsqrt()[mine] * self.weight
        normal = (values - means[mine][:, :, None, None]) * scale[:, :, None, None]
        return (normal + self.bias[:, None, None]).to(images.dtype)


def shuffled(module: nn.Module, shuffle: Shuffle) -> None:
    """Exchange plain batch norm of images inside a module for shuffled batch norm."""

    def make(norm: nn.modules.batchnorm._BatchNorm) -> ShuffledBatchNorm:
        layer = ShuffledBatchNorm(norm.num_features, norm.eps, norm.momentum)
        layer.shuffle = shuffle
        return layer

    exchange(module, make)
