"""The box sets that arms are given."""

from pathlib import Path

import numpy as np

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.exchange.fixed import write_boxes
from ccrop_pipeline.images import Source, true_boxes
from ccrop_pipeline.report import box_quality


def same_boxes(source: Source, folder: Path, name: str) -> Path:
    """Give every image the same box: `full` or `centre`."""
    fixed_boxes(source, folder, "full" if name == "full" else "centre")
    return folder


def shuffled_boxes(source: Source, boxes: Path, folder: Path, seed: int) -> Path:
    """Give the boxes to the images in random order."""
    every = np.concatenate([table.boxes for _, table in BoxSet.open(boxes).tables()])
    order = iter(np.random.default_rng(seed).permutation(len(every)))
    write_boxes(
        source,
        folder,
        rule=f"shuffled, seed {seed}",
        place=lambda *_: every[[next(order)]],
    )
    return folder


def exact_boxes(source: Source, folder: Path) -> Path:
    """Give every image its true box."""
    by_key = {
        sample.key: true_boxes(sample.annotation).astype(np.float32)
        for shard in source.shards
        for sample in source.read(shard)
    }
    write_boxes(source, folder, rule="true boxes", place=lambda key, *_: by_key[key])
    return folder


def statistics(boxes: Path, source: Source) -> dict[str, float]:
    """Return the mean area, share of full boxes and, where the truth is known, fit to it.

    Returns:
        `area` and `full` as shares; `threshold` of boxes from heatmaps and, where it was
        self-set, `worthless` (1: nothing can be expected of them); `iou` (mean) and `found`
        (share with IoU of at least 0.5) where images come with true boxes.
    """
    box_set = BoxSet.open(boxes)
    edges = np.concatenate([table.boxes for _, table in box_set.tables()]).astype(np.float64)
    areas = (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])
    found = {"area": round(float(areas.mean()), 4), "full": round(float((areas == 1).mean()), 4)}
    localizer = box_set.manifest.provenance.localizer
    if localizer and localizer.threshold is not None:
        found["threshold"] = localizer.threshold
        if localizer.choice:
            found["worthless"] = int(localizer.choice.worthless)
    first = next(iter(source.read(source.shards[0])))
    if first.annotation:
        (quality,) = box_quality(box_set, source).values()
        found |= {"iou": round(quality.mean_iou, 4), "found": round(quality.found, 4)}
    return found
