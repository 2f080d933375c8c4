"""What a run has measured: `metrics.jsonl`, and the figures of its boxes."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ccrop_pipeline.base.files import writing, written_aside
from ccrop_pipeline.boxset import BoxSet, iou
from ccrop_pipeline.errors import reading

METRICS = "metrics.jsonl"


class Metrics:
    """The records of a run, one JSON object a line.

    Every record has an entry `epoch`, the epochs trained so far, and `stage`: "train" for
    an epoch of training, "refresh" for a box set, "start" for each time that training begins.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / METRICS

    def records(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Return all whole records so far, or those of one kind of stage.

        Raises:
            CcropError: If a line is no record.
        """
        lines = self._file.read_bytes().split(b"\n")[:-1] if self._file.is_file() else []
        records = [self._record(number, line) for number, line in enumerate(lines, 1)]
        return [record for record in records if stage in (None, record["stage"])]

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        with reading(
            f"{self._file}, line {number},",
            "is no record of a run",
            "Delete the line: training does not need it.",
        ):
            record: dict[str, Any] = json.loads(line.decode())
            kinds = {"stage": str, "epoch": int, "boxes": str | None}
            for name, kind in kinds.items():
                if not isinstance(record.get(name), kind):
                    raise ValueError(f"{name!r} is missing or of another kind")
        return record

    def truncate_after(self, epoch: int) -> None:
        """Drop records of epochs after `epoch`, which are about to be trained again."""
        kept = [record for record in self.records() if record["epoch"] <= epoch]
        with written_aside(self._file, replace=True) as aside:
            aside.write_text("".join(json.dumps(record) + "\n" for record in kept), "utf-8")

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one record; it is on the disk before the checkpoint that it goes with."""
        with writing(self._file), self._file.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())


def box_metrics(box_set: BoxSet, previous: BoxSet | None) -> dict[str, float | None]:
    """Return what a run records of a box set.

    Args:
        box_set: The new boxes.
        previous: Those that were used before, of the same source; None: random crops.

    Returns:
        `mean_area` of its boxes; `share_full` and `share_empty`, the shares of images whose box is
        the whole image and of those in which nothing was found; and `iou_with_previous`, the mean
        IoU of the two boxes of an image, None without images in common, or where equal hashes of
        keys keep them from being joined.
    """
    found = box_set.manifest.statistics
    numbers = {
        "mean_area": found.mean_area,
        "share_full": found.share(found.full),
        "share_empty": found.share(found.counts["empty"]),
        "iou_with_previous": None,
    }
    common = None if previous is None else box_set.lookup().common(previous.lookup())
    if common and len(common[0]):
        new, old = common
        numbers["iou_with_previous"] = float(iou(new, old.astype(np.float64)).mean())
    return {name: None if n is None else round(n, 4) for name, n in numbers.items()}
