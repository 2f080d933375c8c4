"""Colour jitter, grayscale, flip and normalisation of a whole batch, on any device.

Each image has its own random numbers and its own order of the jitter's four steps, as if
torchvision's transforms had been applied to it alone. The definitions are torchvision's for
float images (``adjust_brightness`` and so on).
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from ccrop_pipeline.crops import PHOTOMETRIC, uniforms
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD
from ccrop_pipeline.views.batch import Batch

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, rounded as in torchvision's rgb_to_grayscale
_ORDERS = np.array(list(permutations(range(4))))
_UNIFORMS = 8  # jitter or not, its order, four factors, grayscale or not, flip or not


@dataclass(frozen=True)
class AugmentSettings:
    """Strengths and probabilities, named as in torchvision.

    Args:
        brightness: Factor is drawn from [1 - b, 1 + b], not below 0; contrast and saturation
            likewise.
        contrast: See `brightness`.
        saturation: See `brightness`.
        hue: Shift is drawn from [-h, h] turns, h at most 0.5.
        jitter_p: Probability of the four steps above.
        grayscale_p: Probability of grayscale.
        flip_p: Probability of a horizontal flip.

    Raises:
        CcropError: When a number is out of its range.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter_p: float = 0.8
    grayscale_p: float = 0.2
    flip_p: float = 0.5

    def __post_init__(self) -> None:
        limits = {"brightness": np.inf, "contrast": np.inf, "saturation": np.inf, "hue": 0.5}
        for name, value in vars(self).items():
            limit = limits.get(name, 1.0)
            if not 0 <= value <= limit:
                raise CcropError(f"augment.{name} is {value}; it must lie in [0, {limit:g}]")


class Augment:
    """Turns the uint8 crops of a batch into normalised views.

    Args:
        settings: Strengths and probabilities.
        seed: Seed of the run; an image's draw depends on (seed, epoch, key, view) alone.
        device: Where the batch is augmented.
    """

    def __init__(self, settings: AugmentSettings, seed: int, device: torch.device) -> None:
        self.settings, self.seed, self.device = settings, seed, device
        self._mean = torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1)
        self._std = torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1)

    def __call__(self, batch: Batch, epoch: int) -> Tensor:
        """Returns normalised float32 views, shape (V, B, 3, S, S), channels last in memory."""
        crops = batch.views.to(self.device, non_blocking=True)
        views = [
            self._one_view(
                crops[view], uniforms(self.seed, epoch, batch.hashes, view, PHOTOMETRIC, _UNIFORMS)
            )
            for view in range(len(crops))
        ]
        return torch.stack(views)

    def _one_view(self, crops: Tensor, randoms: np.ndarray) -> Tensor:
        s = self.settings
        images = crops.float().div_(255)
        images = self._jitter(images, randoms)
        grey = self._rows(randoms[:, 6] < s.grayscale_p)
        images[grey] = grayscale(images[grey]).expand(-1, 3, -1, -1)
        flip = self._rows(randoms[:, 7] < s.flip_p)
        images[flip] = images[flip].flip(-1)
        return images.sub_(self._mean).div_(self._std)

    def _jitter(self, images: Tensor, randoms: np.ndarray) -> Tensor:
        s = self.settings
        chosen = randoms[:, 0] < s.jitter_p
        orders = _ORDERS[(randoms[:, 1] * len(_ORDERS)).astype(int)]
        lows = np.array(
            [max(0, 1 - f) for f in (s.brightness, s.contrast, s.saturation)] + [-s.hue]
        )
        highs = np.array([1 + s.brightness, 1 + s.contrast, 1 + s.saturation, s.hue])
        drawn = (lows + (highs - lows) * randoms[:, 2:6]).astype(np.float32)
        factors = torch.from_numpy(drawn).to(self.device).view(-1, 4, 1, 1, 1)
        for position in range(4):
            for step, adjust in enumerate(_STEPS):
                rows = self._rows(chosen & (orders[:, position] == step))
                if len(rows):
                    images[rows] = adjust(images[rows], factors[rows, step])
        return images

    def _rows(self, mask: np.ndarray) -> Tensor:
        return torch.from_numpy(np.flatnonzero(mask)).to(self.device, non_blocking=True)


def grayscale(images: Tensor) -> Tensor:
    """Luma of float RGB images (B, 3, S, S), as (B, 1, S, S)."""
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blends float RGB images in [0, 1] with black; factor (B, 1, 1, 1), 1 changes nothing."""
    return (images * factor).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blends each image with its mean grey; factor (B, 1, 1, 1), 1 changes nothing."""
    return _blend(images, grayscale(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blends each image with its grayscale; factor (B, 1, 1, 1), 1 changes nothing."""
    return _blend(images, grayscale(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue of float RGB images in [0, 1] by `shift` (B, 1, 1, 1), in turns."""
    value, at = images.max(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    red, green, blue = images.unbind(1)
    towards = torch.stack([green - blue, blue - red, red - green], 1).gather(1, at)
    hue = (towards / chroma.clamp(min=1e-12) + 2 * at) / 6 + shift
    # HSV to RGB without cases: https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(3, 1, 1)
    sixth = (offsets + 6 * hue) % 6
    return value - chroma * torch.minimum(sixth, 4 - sixth).clamp_(0, 1)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp_(0, 1)


_STEPS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
