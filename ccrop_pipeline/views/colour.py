"""Changes of colour: a batch at once, each image with its own strength.

The definitions are torchvision's for float images. Images are float32 RGB (B, 3, S, S) in [0, 1].
The four functions of the jitter change them in place, by factors (B, 1, 1, 1). No image has a part
in the result of another, and what one gets does not depend, bit for bit, on how many there are.
"""

import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, rounded as in torchvision's rgb_to_grayscale
_TINY = 1e-12  # in place of a chroma of 0, where any hue will do


def grayscale(images: Tensor) -> Tensor:
    """Luma as a new tensor (B, 1, S, S)."""
    red, green, blue = images.unbind(1)
    luma = red * _LUMA[0]
    return luma.add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).unsqueeze_(1)


def adjust_brightness(images: Tensor, factor: Tensor) -> None:
    """Blends each image with black; factor 1 changes nothing."""
    images.mul_(factor).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> None:
    """Blends each image with its mean luma; factor 1 changes nothing."""
    mean = grayscale(images.mean((2, 3), keepdim=True))
    images.mul_(factor).add_(mean.mul_(1 - factor)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> None:
    """Blends each image with its luma; factor 1 changes nothing."""
    torch.lerp(grayscale(images), images, factor, out=images)
    images.clamp_(0, 1)


def adjust_hue(images: Tensor, shift: Tensor) -> None:
    """Turns the hue by `shift`, in turns; results may leave [0, 1] by a rounding error.

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
    """Images with the values at or above `threshold` inverted, as a new tensor."""
    return torch.where(images >= threshold, 1 - images, images)
