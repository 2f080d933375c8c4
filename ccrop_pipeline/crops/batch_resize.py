"""Crops of a whole batch at once, on any device: each axis is a product with a matrix of weights.

The weights are whole multiples of 1 / 2048. Pixels have 8 bits, so every product and every sum of
them is a whole number below 2**24, which float32 holds exactly (as TF32 does, on a GPU that was
allowed to use it): the order of summation, and with it the size of the batch, changes no bit.
"""

from typing import Final

import torch
from torch import Tensor

_ONE: Final = 2048
# Raw weights are rounded to so many parts first, so that their sums are exact as well.
_FINE: Final = 8192
# Pixels a thread has in work at a time on a CPU: what becomes of them stays in its caches.
_CPU_CHUNK: Final = 100_000


def crop_and_resize_batch(images: Tensor, windows: Tensor, size: int) -> Tensor:
    """Cut one crop window out of each image and resize it to a square, bilinear and antialiased.

    The convolution is Pillow's and torchvision's: a triangle as wide as the pixels of the view,
    or of the image where those are larger, over pixels of the window alone. Rows are resized
    first, and rounded to uint8, then columns.

    Args:
        images: uint8 (n, 3, H, W), contiguous.
        windows: int64 (n, 4) top, left, height, width in pixels, on the same device.
        size: Width and height of the views in pixels.

    Returns:
        uint8 (n, 3, size, size), contiguous.
    """
    views = images.new_empty(len(images), 3, size, size)
    on_cpu = images.device.type == "cpu"
    share = _CPU_CHUNK * torch.get_num_threads() // images[0].numel()
    step = max(1, share) if on_cpu else len(images)
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        views[part] = _cut(images[part], windows[part], size)
    return views


def _cut(images: Tensor, windows: Tensor, size: int) -> Tensor:
    n, _, height, width = images.shape
    starts, lengths = windows.chunk(2, dim=1)
    weights = _weights(starts.flatten(), lengths.flatten(), size, max(height, width))
    down, across = weights.view(n, 2, size, -1).unbind(1)
    down, across = down[..., :height], across[..., :width]
    rows = torch.bmm(images.view(n, 3 * height, width).float(), across.transpose(1, 2))
    rows = _rounded(rows).view(n, 3, height, size).transpose(1, 2).reshape(n, height, 3 * size)
    return _rounded(torch.bmm(down, rows)).view(n, size, 3, size).transpose(1, 2)


def _weights(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """Return the weights of pixels in views along one axis.

    Args:
        start: int64 (n,) first pixel of each window.
        length: int64 (n,) pixels of each window.
        size: Pixels of a view.
        side: Pixels of an image.

    Returns:
        float32 (n, size, side): whole numbers that add up to 2048 in each row.
    """
    start, length = start.view(-1, 1, 1), length.view(-1, 1, 1)
    pixels = torch.arange(side, device=start.device)
    step = length / size
    centres = start + step * (torch.arange(size, device=start.device) + 0.5).view(1, -1, 1)
    weights = (pixels + 0.5 - centres).abs_().div_(step.clamp(min=1)).neg_().add_(1).clamp_(min=0)
    weights *= (pixels >= start) & (pixels < start + length)
    # Rounding the running sum, and not each weight, keeps the sum of the row exact.
    sums = weights.mul_(_FINE).round_().cumsum(-1)
    sums = (sums * (_ONE / sums[..., -1:])).round_()
    return torch.diff(sums, dim=-1, prepend=sums.new_zeros(1, 1, 1).expand(len(sums), size, 1))


def _rounded(sums: Tensor) -> Tensor:
    return sums.mul_(1 / _ONE).add_(0.5).floor_()
