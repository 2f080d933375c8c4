"""Changes of colour: a batch at once, each image with its own strength.

The definitions are torchvision's for float images. Images are float32 RGB (B, 3, S, S) in [0, 1].
The four functions of the jitter change them in place, by factors (B, 1, 1, 1). No image has a part
in the result of another, and what one gets does not depend, bit for bit, on how many there are.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, rounded as in torchvision's rgb_to_grayscale
_TINY = 1e-12  # in place of a chroma of 0, where any hue will do


def grayscale(images: Tensor) -> Tensor:
    """Return the luma as a new tensor (B, 1, S, S)."""
    red, green, blue = images.unbind(1)
    luma = red * _LUMA[0]
    return luma.add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).unsqueeze_(1)


def adjust_brightness(images: Tensor, factor: Tensor) -> None:
    """Blend each image with black; factor 1 changes nothing."""
    images.mul_(factor).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> None:
    """Blend each image with its mean luma; factor 1 changes nothing."""
    mean = grayscale(images.mean((2, 3), keepdim=True))
    images.mul_(factor).add_(mean.mul_(1 - factor)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> None:
    """Blend each image with its luma; factor 1 changes nothing."""
    torch.lerp(grayscale(images), images, factor, out=images)
    images.clamp_(0, 1)


def adjust_hue(images: Tensor, shift: Tensor) -> None:
    """Turn the hue by `shift`, in turns; results may leave [0, 1] by a rounding error.

    Hue is an angle on a hexagon. In sixths of a turn, its distance from red is
    (green + blue - red + max - 2 min) / (max - min), which can be checked for each order of the
    three channels; the sign of green - blue says on which side. Back to RGB the channels are
    clamped triangle waves (https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative).
    """
    red, green, blue = images.unbind(1)
    largest, least = images.amax(1), images.amin(1)
    chroma = (largest - least).clamp_min_(_TINY)
    distance = (green + blue).sub_(red).add_(largest).sub_(least, alpha=2)
    distance.div_(chroma).copysign_(green - blue)
    # In turns; one is added so that it is positive, as `frac` needs.
    hue = torch.add(shift[:, 0] + 1, distance, alpha=1 / 6, out=distance).frac_()
    # A channel is min + chroma * t with t = 6 |hue - 1/2| - 1 or 2 - 6 |hue - 1/3|, 2 - 6 |hue -
    # 2/3|, clamped to [0, 1]. To clamp |...| to [1/6, 1/3] instead is the same in fewer passes.
    above = largest.add_(chroma)
    _add_wave(least.sub_(chroma), hue, 1 / 2, chroma, 6, out=red)
    _add_wave(above, hue, 1 / 3, chroma, -6, out=green)
    _add_wave(above, hue, 2 / 3, chroma, -6, out=blue)


def _add_wave(
    base: Tensor, hue: Tensor, centre: float, chroma: Tensor, height: float, out: Tensor
) -> None:
    wave = (hue - centre).abs_().clamp_(1 / 6, 1 / 3)
    torch.addcmul(base, chroma, wave, value=height, out=out)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Invert the values at or above `threshold`, in a new tensor."""
    return torch.where(images >= threshold, 1 - images, images)


# Gaussian blur, each image by its own width.
#
# The definition is torchvision's `GaussianBlur`: a truncated, normalised kernel, borders reflected.


_TILE = 8  # pixels of a line that one small matrix product blurs


def kernel_size(side: int) -> int:
    """Return the pixels of the kernel for views of `side` px: the odd number nearest to a tenth.

    SimCLR (Chen et al., ICML 2020, appendix A) has a tenth of the side; 23 for 224 px.
    """
    return max(3, 2 * math.floor(side / 20) + 1)


def gaussian_weights(sigmas: Tensor, radius: int) -> Tensor:
    """Return normalised weights (n, 2 radius + 1) of Gaussians of sigmas (n,), in pixels."""
    offsets = torch.arange(-radius, radius + 1, device=sigmas.device)
    return torch.softmax((offsets / sigmas[:, None]).square_().mul_(-0.5), dim=1)


def blur(images: Tensor, rows: Tensor, sigmas: Tensor) -> None:
    """Blur some images in place.

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
    """Blur images (n, 3, S, S), each by its own sigma (n,) in pixels; the way for GPUs.

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
    """Blur one image (3, S, S) by sigma pixels, in place; the way for CPUs.

    Each line is cut into tiles; a tile's result is a band matrix times the tile and its margins.
    On a CPU such products run at several times the rate of depthwise convolutions or of shifted
    sums.
    """
    side = image.shape[-1]
    radius = blur_radius(sigma, side)
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


def blur_radius(sigma: float, side: int) -> int:
    """Return where the kernel ends, at latest where its weights fall below exp(-5.1**2 / 2) = 2e-6.

    What is left out changes a pixel in [0, 1] by less than 1e-5.
    """
    return min(kernel_size(side) // 2, math.ceil(5.1 * sigma) - 1)


def _band(sigma: float, radius: int) -> Tensor:
    """Return a matrix (_TILE, _TILE + 2 radius): the kernel in each row, one further right."""
    width = _TILE + 2 * radius
    band = torch.zeros(_TILE, width)
    rows = band.as_strided((_TILE, 2 * radius + 1), (width + 1, 1))
    rows.copy_(gaussian_weights(torch.tensor([sigma]), radius))
    return band


def _blur_and_transpose(lines: Tensor, band: Tensor) -> Tensor:
    """Blur lines (n, length + 2 radius), padded, along themselves, into (length, n)."""
    tiles = lines.unfold(1, band.shape[1], _TILE).permute(1, 2, 0)  # overlapping, not copied
    return torch.bmm(band.expand(len(tiles), -1, -1), tiles).flatten(0, 1)
