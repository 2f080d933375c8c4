"""A network that is ready to be looked into, before a layer is chosen."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from ccrop_pipeline.errors import ModelError
from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True, eq=False)
class Network:
    """A module with its weights, and what it expects of images.

    Attributes:
        module: The network.
        name: What a box set records of it.
        input_size: Side of the square images that it takes, in pixels.
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel, likewise.
        epoch: Epochs it was trained for, if known.
    """

    module: nn.Module
    name: str
    input_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    epoch: int | None = None


def import_timm() -> Any:
    """Import timm.

    Raises:
        ModelError: If it is not installed.
    """
    try:
        import timm
    except ImportError:
        raise ModelError(
            "this model is built by timm, which is missing: pip install timm."
        ) from None
    return timm
