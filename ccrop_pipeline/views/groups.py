"""What the views of a group are like: how many, how large, how cropped, how changed."""

from dataclasses import dataclass, field

import numpy as np

from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import CcropError


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
        blur_p: Probability of a Gaussian blur.
        blur_sigma: Least and largest standard deviation of the blur in pixels.
        solarize_p: Probability of solarizing.
        solarize_threshold: Values at or above it are inverted, in [0, 1].
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
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0
    solarize_threshold: float = 0.5
    flip_p: float = 0.5

    def __post_init__(self) -> None:
        limits = {"brightness": np.inf, "contrast": np.inf, "saturation": np.inf, "hue": 0.5}
        for name, value in vars(self).items():
            limit = limits.get(name, 1.0)
            if name != "blur_sigma" and not 0 <= value <= limit:
                raise CcropError(f"augment.{name} is {value}; it must lie in [0, {limit:g}]")
        sigma = tuple(self.blur_sigma)
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1] < np.inf:
            raise CcropError(
                f"augment.blur_sigma is {self.blur_sigma}; it must be two numbers of pixels, "
                "the least above 0 and the largest not below it"
            )


@dataclass(frozen=True)
class ViewGroup:
    """Views of one kind; multi-crop has several groups (Caron et al., SwAV, NeurIPS 2020).

    Args:
        count: Views of each image, at least 1.
        size: Side of a view in pixels, at least 8.
        crop: How their windows are drawn.
        augment: How their pixels are changed.

    Raises:
        CcropError: When a number is out of its range.
    """

    count: int = 2
    size: int = 224
    crop: CropParams = field(default_factory=CropParams)
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise CcropError(f"a group has {self.count} views; it must have at least 1")
        if self.size < 8:
            raise CcropError(f"views are {self.size} px wide; they must have at least 8")
