"""Batch norm over the images of all processes."""

from collections.abc import Callable

import torch
from lightly.utils.dist import gather
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ccrop_pipeline.methods.precision import at_least_float32

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
        """Normalises (B, C, ...) by channel."""
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
    """Moves running statistics towards those of a batch, as batch norm of torch does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(unbiased_var, norm.momentum)


def synchronise(module: nn.Module) -> None:
    """Exchanges plain batch norm inside a module for one that covers all processes."""
    on_gpu = any(parameter.is_cuda for parameter in module.parameters())
    kind = nn.SyncBatchNorm if on_gpu else SynchronisedBatchNorm
    exchange(module, lambda norm: kind(norm.num_features, norm.eps, norm.momentum, norm.affine))


def exchange(module: nn.Module, make: Callable[[_BatchNorm], _BatchNorm]) -> None:
    """Puts other layers in the place of plain batch norm, with its parameters and buffers."""
    for name, child in module.named_children():
        if type(child) in _PLAIN:
            assert isinstance(child, _BatchNorm)
            new = make(child)
            # The very tensors: optimizers and momentum encoders may hold them already.
            new._parameters, new._buffers = child._parameters, child._buffers
            new.train(child.training)
            setattr(module, name, new)
        else:
            exchange(child, make)
