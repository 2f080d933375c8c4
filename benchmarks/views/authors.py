"""What the ContrastiveCrop authors' program does for a pair of views, in our words.

Source: https://github.com/xyupeng/ContrastiveCrop, `datasets/transforms`. It works on one PIL
image at a time with torchvision's first transforms. Kept as they have it, since it costs time:
random numbers are one-element tensors of torch, both positions are draws from
`torch.distributions.Beta`, and each view starts anew from the decoded image.
"""

import io
import math
import random
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.distributions import Beta
from torchvision import transforms
from torchvision.transforms import functional as F

from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD

Box = Sequence[float]  # normalised top, left, bottom, right
Window = tuple[int, int, int, int]  # top, left, height, width in pixels

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


class Authors:
    """One image to two views.

    Args:
        view_size: Side of a view in pixels.
        blur: Whether views are blurred half of the time, as in the settings for ImageNet.
        complete: Colours, flip and normalisation (float views), or crops alone (uint8).
    """

    def __init__(self, view_size: int, blur: bool, complete: bool) -> None:
        self.view_size = view_size
        self.beta = Beta(0.6, 0.6)
        chain = augmentation(blur) if complete else [transforms.PILToTensor()]
        self.chain = transforms.Compose(chain)

    def __call__(self, image: bytes | np.ndarray, box: Box) -> list[Tensor]:
        """Return two views (3, S, S) of a JPEG or of its pixels."""
        opened = open_pil(image)
        return [self.chain(self.crop(opened, box)) for _ in range(2)]

    def crop(self, image: Image.Image, box: Box) -> Image.Image:
        """Return one crop of an image, resized."""
        window = official_window(image.size, box, self.beta)
        return F.resized_crop(image, *window, size=(self.view_size, self.view_size))


def open_pil(image: bytes | np.ndarray) -> Image.Image:
    """Return an RGB image, as torchvision's `ImageFolder` and `CIFAR10` open it."""
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    return Image.open(io.BytesIO(image)).convert("RGB")


def augmentation(blur: bool) -> list:
    """Return all after the crop: flip, colours, blur, tensor, normalisation."""
    blurring = [transforms.RandomApply([_pil_blur], p=0.5)] if blur else []
    return [
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        *blurring,
        transforms.ToTensor(),
        transforms.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
    ]


def _pil_blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def official_window(size: tuple[int, int], box: Box, beta: Beta) -> Window:
    """Draw a window: up to ten sizes until one fits, then Beta between two clamped corners.

    Args:
        size: Width and height of the image in pixels.
        box: Of its content.
        beta: Distribution of the corner between its two extremes.
    """
    image_width, image_height = size
    log_ratio = torch.log(torch.tensor(RATIO))
    for _ in range(10):
        area = image_width * image_height * _uniform(*SCALE)
        ratio = torch.exp(torch.empty(1).uniform_(log_ratio[0], log_ratio[1])).item()
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image_width and 0 < height <= image_height:
            top = _corner(image_height, height, box[0], box[2], beta)
            left = _corner(image_width, width, box[1], box[3], beta)
            return top, left, height, width
    return _central_window(image_width, image_height)


def _corner(length: int, window: int, near: float, far: float, beta: Beta) -> int:
    first, last = (
        min(max(int(length * edge) - window // 2, 0), length - window) for edge in (near, far)
    )
    return first + int((last - first) * beta.sample())


def _central_window(width: int, height: int) -> Window:
    window_width, window_height = width, height
    if width / height < RATIO[0]:
        window_height = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        window_width = round(height * RATIO[1])
    return (height - window_height) // 2, (width - window_width) // 2, window_height, window_width


def _uniform(low: float, high: float) -> float:
    return torch.empty(1).uniform_(low, high).item()
