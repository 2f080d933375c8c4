"""What a run records of its box sets."""

from typing import Any

import numpy as np

from ccrop_pipeline.boxset.boxes import iou
from ccrop_pipeline.boxset.reader import BoxSet


def box_metrics(box_set: BoxSet, previous: BoxSet | None) -> dict[str, Any]:
    """Statistics of a box set, and how far it is from the one before.

    Args:
        box_set: The new boxes.
        previous: Those that were used before, of the same source; None: random crops.

    Returns:
        ``mean_area`` and ``share_full`` of its boxes as shares of the image and of all images,
        ``share_empty`` of images in which nothing was found, and ``iou_with_previous``, the
        mean IoU of the boxes of an image, None without previous ones.
    """
    areas, images = box_set.areas(), max(1, box_set.manifest.rows)
    return {
        "mean_area": _rounded(areas.mean()),
        "share_full": _rounded((areas == 1).mean()),
        "share_empty": _rounded(box_set.manifest.counts["empty"] / images),
        "iou_with_previous": None if previous is None else _mean_iou(box_set, previous),
    }


def _mean_iou(box_set: BoxSet, previous: BoxSet) -> float:
    lookup, overlaps = previous.lookup(), []
    for _, table in box_set.tables(heatmaps=False):
        before, found = lookup.find(table.keys)
        overlaps.append(iou(table.boxes[found], before[found].astype(np.float64)))
    return _rounded(np.concatenate(overlaps).mean())


def _rounded(value: Any) -> float:
    return round(float(value), 4)
