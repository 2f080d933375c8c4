"""Gaussian blur, each image by its own width.

The definition is torchvision's `GaussianBlur`: a truncated, normalised kernel, borders reflected.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_TILE = 8  # pixels of a line that one small matrix product blurs


def kernel_size(side: int) -> int:
    """Pixels of the kernel for views of `side` px: the odd number nearest to a tenth.

    SimCLR (Chen et al., ICML 2020, appendix A) has a tenth of the side; 23 for 224 px.
    """
    return max(3, 2 * math.floor(side / 20) + 1)


def gaussian_weights(sigmas: Tensor, radius: int) -> Tensor:
    """Normalised weights (n, 2 radius + 1) of Gaussians of sigmas (n,), in pixels."""
    offsets = torch.arange(-radius, radius + 1, device=sigmas.device)
    return torch.softmax((offsets / sigmas[:, None]).square_().mul_(-0.5), dim=1)


def blur(images: Tensor, rows: Tensor, sigmas: Tensor) -> None:
    """Blurs some images in place.

    Args:
        images: float32 (n, 3, S, S).
        rows: int64 (m,), which of them.
        sigmas: float32 (n,), standard deviations in pixels; those of other rows have no effect.
    """
    chosen = sigmas.index_select(0, rows)
    if images.device.type == "cpu":
        for row, sigma in zip(rows.tolist(), chosen.tolist(), strict=True):
            blur_image(images[row], sigma)
    elif len(rows):
        images.index_copy_(0, rows, blur_batch(images.index_select(0, rows), chosen))


def blur_batch(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blurs images (n, 3, S, S), each by its own sigma (n,) in pixels; the way for GPUs.

    Two depthwise convolutions with the channels of all images side by side.
    """
    n, channels, side, _ = images.shape
    radius = kernel_size(side) // 2
    weights = gaussian_weights(sigmas, radius).repeat_interleave(channels, 0)[:, None, None]
    planes = F.pad(images.view(1, n * channels, side, side), (radius,) * 4, mode="reflect")
    planes = F.conv2d(planes, weights, groups=n * channels)
    planes = F.conv2d(planes, weights.transpose(2, 3), groups=n * channels)
    return planes.view_as(images)


def blur_image(image: Tensor, sigma: float) -> None:
    """Blurs one image (3, S, S) by sigma pixels, in place; the way for CPUs.

    Each line is cut into tiles; a tile's result is a band matrix times the tile and its margins.
    On a CPU such products run at several times the rate of depthwise convolutions or of shifted
    sums.
    """
    side = image.shape[-1]
    radius = _radius(sigma, side)
    if radius == 0:
        return
    band = _band(sigma, radius)
    padded = F.pad(image, (radius,) * 4, mode="reflect")
    surplus = -side % _TILE
    if surplus:  # the last tiles reach over the edge, where their results are cut off
        padded = F.pad(padded, (0, surplus, 0, surplus))
    for plane, lines in zip(image, padded, strict=True):
        blurred = _blur_and_transpose(_blur_and_transpose(lines, band), band)
        plane.copy_(blurred[:side, :side])


def _radius(sigma: float, side: int) -> int:
    """Where the kernel ends, at latest where its weights fall below exp(-5.1**2 / 2) = 2e-6.

    What is left out changes a pixel in [0, 1] by less than 1e-5.
    """
    return min(kernel_size(side) // 2, math.ceil(5.1 * sigma) - 1)


def _band(sigma: float, radius: int) -> Tensor:
    """Matrix (_TILE, _TILE + 2 radius): the kernel in each row, one further right each time."""
    width = _TILE + 2 * radius
    band = torch.zeros(_TILE, width)
    rows = band.as_strided((_TILE, 2 * radius + 1), (width + 1, 1))
    rows.copy_(gaussian_weights(torch.tensor([sigma]), radius))
    return band


def _blur_and_transpose(lines: Tensor, band: Tensor) -> Tensor:
    """Blurs lines (n, length + 2 radius), padded, along themselves; returns (length, n)."""
    tiles = lines.unfold(1, band.shape[1], _TILE).permute(1, 2, 0)  # overlapping, not copied
    return torch.bmm(band.expand(len(tiles), -1, -1), tiles).flatten(0, 1)
