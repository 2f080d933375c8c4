"""Settings of views: how many, how large, how cropped, how changed."""

from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property

from ccrop_pipeline.base.values import check_ranges, ranged
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.crops.windows import Rule
from ccrop_pipeline.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Strengths and probabilities, named as in torchvision.

    Attributes:
        brightness: The factor is drawn from [1 - b, 1 + b], not below 0; those of contrast and
            saturation likewise.
        contrast: See `brightness`.
        saturation: See `brightness`.
        hue: The shift is drawn from [-h, h] turns; in [0, 0.5].
        jitter_p: Probability of the four steps above.
        grayscale_p: Probability of grayscale.
        blur_p: Probability of a Gaussian blur.
        blur_sigma: Least and largest standard deviation of the blur in pixels, above 0.
        solarize_p: Probability of solarizing.
        solarize_threshold: Values at or above it are inverted; in [0, 1].
        flip_p: Probability of a horizontal flip.

    Raises:
        SettingError: If a number is out of its range.
    """

    brightness: float = ranged(0.4, "[0, 100]")
    contrast: float = ranged(0.4, "[0, 100]")
    saturation: float = ranged(0.4, "[0, 100]")
    hue: float = ranged(0.1, "[0, 0.5]")
    jitter_p: float = ranged(0.8, "[0, 1]")
    grayscale_p: float = ranged(0.2, "[0, 1]")
    blur_p: float = ranged(0.0, "[0, 1]")
    blur_sigma: tuple[float, float] = ranged((0.1, 2.0), "(0, 100]")
    solarize_p: float = ranged(0.0, "[0, 1]")
    solarize_threshold: float = ranged(0.5, "[0, 1]")
    flip_p: float = ranged(0.5, "[0, 1]")

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)
        if len(self.blur_sigma) != 2 or self.blur_sigma[0] > self.blur_sigma[1]:
            raise SettingError(
                f"blur_sigma is {self.blur_sigma}; it must be two numbers of pixels, the second "
                "not below the first."
            )


@dataclass(frozen=True)
class LocalViews:
    """Small views beside the two large ones (multi-crop; Caron et al., NeurIPS 2020).

    Attributes:
        count: Local views of an image; 0: none.
        size: Their side in pixels, at least 8.
        scale: Least and largest share of the image that a window covers, in (0, 1].

    Raises:
        SettingError: If a number is out of its range.
    """

    count: int = ranged(0, "[0, 64]")
    size: int = ranged(96, "[8, 4096]")
    scale: tuple[float, float] = (0.05, 0.4)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)
        CropParams(scale=self.scale)


@dataclass(frozen=True)
class ViewGroup:
    """Views of one kind; multi-crop has several groups (Caron et al., SwAV, NeurIPS 2020).

    Attributes:
        count: Views of each image, at least 1.
        size: Side of a view in pixels, at least 8.
        scale: As in `ContrastiveCrop`, like all that follow.
        ratio: See `scale`.
        alpha: See `scale`.
        rule: See `scale`.
        min_overlap: See `scale`.
        augment: How the pixels of the views are changed.

    Raises:
        SettingError: If a number is out of its range.
    """

    count: int = ranged(2, "[1, 64]")
    size: int = ranged(224, "[8, 4096]")
    _: KW_ONLY
    scale: tuple[float, float] = CropParams.scale
    ratio: tuple[float, float] = CropParams.ratio
    alpha: float = CropParams.alpha
    rule: Rule = CropParams.rule
    min_overlap: float = CropParams.min_overlap
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)
        _ = self.crop

    @cached_property
    def crop(self) -> CropParams:
        """How windows are drawn."""
        return CropParams(self.rule, self.alpha, self.scale, self.ratio, self.min_overlap)
