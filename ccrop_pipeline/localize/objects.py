"""Several boxes from a heatmap: one for each object in it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.boxset import Choices
from ccrop_pipeline.localize.box_rules import (
    BoxRule,
    Components,
    check_heatmaps,
    drawn,
    pixels_above,
    thresholds,
)
from ccrop_pipeline.localize.discovery import object_numbers


def object_boxes(
    heatmaps: Tensor, rule: BoxRule, map_size: int, *, masks: bool
) -> tuple[Choices, NDArray[np.bool_]]:
    """Return the boxes of the objects of each heatmap, the first object first.

    An object is a connected component of the cells above the threshold, as for `only_largest`:
    those with the most heat, of equal ones the one whose first cell comes first. In a mask it is
    what the localizer found, in its order, and its heat is 1. Its box is that of the heatmap in
    which the content of all others is set to 0; margin and least size are those of each object.

    Args:
        heatmaps: float16 `(n, h, w)` in [0, 1], on the CPU.
        rule: At most `rule.objects` boxes of each heatmap; has a threshold.
        map_size: As for `boxes_from_heatmaps`.
        masks: Whether the heatmaps are those of `lost` or `tokencut`.

    Returns:
        The boxes, the full one where there is no object; and `found`, bool `(n,)`: whether there
        is one.

    Raises:
        ValueError: If an argument is outside of what is described here.
    """
    check_heatmaps(heatmaps, map_size)
    assert rule.threshold is not None
    limit = thresholds(heatmaps, rule) if rule.mean_share else rule.threshold
    labels = torch.from_numpy(
        object_numbers(heatmaps.numpy()) if masks else _by_heat(heatmaps, limit)
    )
    boxes, found = [], []
    for number in range(1, 1 + min(rule.objects, max(1, int(labels.max()) if len(labels) else 1))):
        own = labels == number
        heat = own.half() if masks else heatmaps.masked_fill((labels > 0) & ~own, 0)
        ends, has_pixels = pixels_above(heat, limit, map_size)
        boxes.append(drawn(ends, has_pixels, rule, (map_size, map_size))[0])
        found.append(has_pixels)
    every, has = torch.stack(boxes, dim=1).numpy(), torch.stack(found, dim=1).numpy()
    any_object = np.asarray(has.any(axis=1))
    has[~any_object, 0] = True  # the full box, as `drawn` gives it
    starts = np.concatenate([[0], has.sum(axis=1).cumsum()]).astype(np.int64)
    return Choices(every[has], starts), any_object


def _by_heat(heatmaps: Tensor, threshold: float | Tensor) -> NDArray[np.int64]:
    """Return the rank of the component that a cell belongs to, from 1; 0 for what is no content."""
    found = Components.of(heatmaps, threshold)
    order = found.ranked(-found.heat)
    maps = found.map_of[order]
    rank = np.zeros(len(found.heat), np.int64)
    rank[order] = 1 + np.arange(len(order)) - np.searchsorted(maps, maps)
    return rank[found.labels]
