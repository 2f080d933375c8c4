"""How well boxes fit true ones, where a source has true ones."""

import json
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset import FULL_BOX, BoxSet, iou
from ccrop_pipeline.errors import SourceError
from ccrop_pipeline.images import Source, true_boxes

CENTRE_70 = (0.15, 0.15, 0.85, 0.85)


@dataclass(frozen=True)
class Quality:
    """Fit of boxes to true boxes over some images.

    Attributes:
        images: Number of images with a true box.
        found: Share of them whose box has an IoU of at least 0.5 with any of their true boxes.
        whole_image: The same share if every box were the whole image.
        centre: The same share if every box were the central 70 % of each side.
        mean_iou: Mean of the best IoU of each box with a true box.
    """

    images: int
    found: float
    whole_image: float
    centre: float
    mean_iou: float


def box_quality(box_set: BoxSet, source: Source) -> dict[str, Quality]:
    """Compare a box set with the true boxes of its source.

    Args:
        box_set: Boxes to judge.
        source: Images whose annotations hold true boxes.

    Returns:
        Quality for each `source` that annotations name (data sets that were put together) in
        alphabetical order.

    Raises:
        SourceError: If no image of the source has a true box.
        MissingBoxError: If an image that has one has no box in the set.
    """
    groups, keys, truths, rows = list[str](), list[str](), [], defaultdict(list)
    for shard in source.shards:
        for sample in source.read(shard):
            truth = true_boxes(sample.annotation)
            if not len(truth):
                continue
            groups.append(str(json.loads(sample.annotation or b"{}").get("source", "all")))
            keys.append(sample.key)
            truths.append(truth)
    for group, found, truth in zip(groups, box_set.find(keys), truths, strict=True):
        candidates = (found, FULL_BOX, CENTRE_70)
        rows[group].append([iou(box, truth).max() for box in candidates])
    if not rows:
        raise SourceError(f"no image of {source.location} comes with true boxes.")
    return {group: _summary(np.array(best)) for group, best in sorted(rows.items())}


def _summary(best: NDArray[np.float64]) -> Quality:
    found, whole, centre = (best >= 0.5).mean(0)
    return Quality(len(best), float(found), float(whole), float(centre), float(best[:, 0].mean()))
