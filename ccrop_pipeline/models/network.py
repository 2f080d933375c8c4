"""A network that is ready to be looked into, before a layer is chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ccrop_pipeline.errors import ModelError, SettingError, shown
from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD

Colours = tuple[float, float, float]  # a number for each of R, G and B


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
        colours: Where mean and standard deviation are from, for people.
        options: What its library was told besides its name.
    """

    module: nn.Module
    name: str
    input_size: int
    mean: Colours = IMAGENET_MEAN
    std: Colours = IMAGENET_STD
    epoch: int | None = None
    colours: str = "ImageNet's, assumed, since nothing tells what it was trained with"
    options: Mapping[str, Any] = field(default_factory=dict)


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


def three_channels(name: str, value: float | Sequence[float] | None) -> Colours | None:
    """Return a mean or standard deviation that was given, for each of three channels.

    Args:
        name: `mean` or `std`.
        value: One number or three; None for None.

    Raises:
        SettingError: If there is neither one number nor three, or one is out of range.
    """
    if value is None:
        return None
    numbers = [float(number) for number in (value if isinstance(value, Sequence) else [value])]
    if len(numbers) not in (1, 3):
        raise SettingError(f"`{name}` has {len(numbers)} numbers; give 1, or 3 for R, G and B.")
    if not all(0 <= number <= 1 and (number or name == "mean") for number in numbers):
        least = "0" if name == "mean" else "above 0"
        raise SettingError(
            f"`{name}` is {shown(value)}; it must be from {least} to 1, for pixels from 0 to 1. "
            "Divide what is for pixels up to 255 by 255."
        )
    first, second, third = numbers * (3 // len(numbers))
    return first, second, third
