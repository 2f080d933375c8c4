"""What an encoder's features are like, found by showing it a few made images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ccrop_pipeline.localize.encoder import Encoder

_IMAGES = 8


def probe_images(size: int) -> Tensor:
    """Made images with structure at many scales, the same on every machine.

    Args:
        size: Side in pixels.

    Returns:
        uint8 ``(8, 3, size, size)``: blocks of random colours, finer from image to image.
    """
    generator = torch.Generator().manual_seed(0)
    images = []
    for number in range(_IMAGES):
        cells = min(2 ** (number + 1), size)
        colours = torch.randint(0, 256, (1, 3, cells, cells), generator=generator)
        images.append(F.interpolate(colours.to(torch.uint8), size=(size, size), mode="nearest"))
    return torch.cat(images)


def has_negative_features(encoder: Encoder) -> bool:
    """Whether the features of the probe images are negative anywhere, so that sums cancel."""
    return bool((encoder.features(probe_images(encoder.input_size)) < 0).any())
