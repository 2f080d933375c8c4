"""Another rule for stored heatmaps, where most boxes are nearly the whole image."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset import NEARLY_FULL, LocalizerInfo
from ccrop_pipeline.report.spread import spread_of

_FEW = 0.25  # share of nearly full boxes that another rule may leave, to be worth naming
_ALIKE = 0.85  # IoU with the median box, of boxes that are hardly better
_TENTHS = tuple(tenth / 10 for tenth in range(1, 10))


@dataclass(frozen=True)
class Remedy:
    """Another rule for the same heatmaps, as tried on a sample of them.

    Attributes:
        name: The field of the rule to change, `threshold` or `mass`.
        value: What to set it to.
        mean_area: Mean share of its image that a box would cover.
        images: Number of images in the sample.
    """

    name: str
    value: float
    mean_area: float
    images: int


def remedy(localizer: LocalizerInfo, heatmaps: NDArray[np.float16]) -> Remedy | None:
    """Return the mildest rule that leaves at most a quarter of the boxes nearly full.

    None where boxes would be much the same for all images.

    Args:
        localizer: What made the boxes. A rule that set itself by images is not changed.
        heatmaps: A sample, `(n, h, w)`.
    """
    if localizer.choice is not None and localizer.choice.threshold:
        return None
    import torch  # more than a second to import, and most audits end before this

    from ccrop_pipeline.localize import boxes_from_heatmaps, rule_of

    maps = torch.from_numpy(heatmaps)
    for name, value in _milder_first(localizer):
        rule = replace(rule_of(localizer), mean_share=0.0, centre_weight=0.0)
        rule = replace(rule, threshold=value) if name == "threshold" else replace(rule, mass=value)
        boxes, _ = boxes_from_heatmaps(maps, rule, localizer.input_size)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        if float((areas > NEARLY_FULL).float().mean()) <= _FEW:
            if spread_of(boxes.numpy()).median_iou > _ALIKE:
                return None
            return Remedy(name, value, float(areas.mean()), len(heatmaps))
    return None


def _milder_first(rule: LocalizerInfo) -> Iterator[tuple[str, float]]:
    if rule.threshold is not None:
        for threshold in _TENTHS:
            if threshold > rule.threshold:
                yield "threshold", threshold
    elif rule.mass is not None:
        for mass in reversed(_TENTHS):
            if mass < rule.mass:
                yield "mass", mass
