"""FiftyOne's JSON of detections: left, top, width and height in shares of the image.

The format is that of `FiftyOneImageDetectionDataset`, described at
https://docs.voxel51.com/user_guide/import_datasets.html, of which only the file of labels is
written and read: `labels` has a list for each image by its path without the extension.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import reading, shown
from ccrop_pipeline.exchange.annotations import (
    CONTENT,
    Annotated,
    Annotations,
    boxes_by_image,
    by_stem,
    expect_shares,
    of_file,
    write_joined,
)
from ccrop_pipeline.exchange.masks import score_of

_NEEDED: Final = (
    "Expected is the labels.json of a FiftyOneImageDetectionDataset: labels with a list for each "
    "image, of detections with bounding_box [x, y, width, height] in shares."
)


def read_fiftyone(path: str | Path) -> Annotations:
    """Read the boxes of all images.

    Raises:
        CcropError: If it is no such JSON, or the numbers are pixels.
    """
    path = local_path(path)
    with reading(path, "is no FiftyOne file of detections", _NEEDED):
        labels = json.loads(path.read_bytes())["labels"]
        found = {name: _detections(entries or []) for name, entries in labels.items()}
        for annotated in found.values():
            expect_shares(annotated.boxes, path, "Divide them by width and height of the image.")
    return of_file("fiftyone", found, path)


def _detections(entries: list[dict[str, Any]]) -> Annotated:
    boxes = np.array([_bounds(entry["bounding_box"]) for entry in entries], np.float64)
    boxes = boxes.reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = [score_of({"score": entry.get("confidence")}) for entry in entries]
    return Annotated(boxes, "shares", np.array(scores, np.float64))


def _bounds(bounds: Any) -> list[float]:
    if not isinstance(bounds, list) or len(bounds) != 4:
        raise ValueError(f"a bounding_box is {shown(bounds)}")
    return [float(number) for number in bounds]


def write_fiftyone(box_set: BoxSet, path: Path, suffix: str, *, turned: bool) -> None:
    """Write the detections of each image that can be read, labelled `content`.

    Args:
        box_set: The boxes.
        path: File to write.
        suffix: Put behind keys without an extension to make the name of its image.
        turned: Whether boxes are for images that are turned upright, as FiftyOne shows them.

    Raises:
        CcropError: If two images have one name without their extensions.
    """
    images = by_stem(boxes_by_image(box_set, turned=turned), suffix)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"labels": {')
        members = ({name: _entries(image.boxes)} for name, image in images)
        write_joined(file, (json.dumps(member, ensure_ascii=False)[1:-1] for member in members))
        file.write("}}\n")


def _entries(boxes: list[list[float]]) -> list[dict[str, Any]]:
    return [
        {"label": CONTENT, "bounding_box": [x_min, y_min, x_max - x_min, y_max - y_min]}
        for x_min, y_min, x_max, y_max in boxes
    ]
