"""Heatmaps: a feature map summed over its channels and stretched to [0, 1].

Section 3 of ContrastiveCrop (arXiv:2202.03278). The stretching happens on the grid of the
feature map, before any upsampling.
"""

import torch
from torch import Tensor


def channel_sum(features: Tensor) -> Tensor:
    """Sum feature maps over their channels.

    Args:
        features: ``(B, C, h, w)``, any floating dtype.

    Returns:
        float32 ``(B, h, w)``, accumulated in float32.

    Raises:
        ValueError: ``features`` has not four dimensions.
    """
    if features.ndim != 4:
        raise ValueError(f"features must be (B, C, h, w), not {tuple(features.shape)}")
    return features.sum(dim=1, dtype=torch.float32)


def min_max(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Stretch every map linearly so that its least value is 0 and its greatest is 1.

    A map that is constant, or holds NaN or infinity, has no such form: its heatmap is all zero
    and it is reported as not usable. float64 inside, so that neither the greatest nor the
    smallest range that float32 can hold overflows or vanishes.

    Args:
        maps: ``(B, h, w)``, float32 or narrower; of any sign and magnitude.

    Returns:
        Heatmaps, float16 ``(B, h, w)`` in [0, 1], never NaN; and ``usable``, bool ``(B,)``.

    Raises:
        ValueError: ``maps`` has not three dimensions, or has no cells.
    """
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise ValueError(f"maps must be (B, h, w) with cells, not {tuple(maps.shape)}")
    cells = maps.to(torch.float64)
    low = cells.amin(dim=(1, 2), keepdim=True)
    span = cells.amax(dim=(1, 2), keepdim=True) - low
    usable = span.isfinite() & (span > 0)  # NaN and infinity reach the span through both extremes
    heatmaps = torch.where(usable, (cells - low) / span, 0.0)
    return heatmaps.to(torch.float16), usable[:, 0, 0]
