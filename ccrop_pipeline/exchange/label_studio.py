"""Label Studio JSON: rectangles in percent of the image, with their rotation.

The format is described at https://labelstud.io/guide/task_format and
https://labelstud.io/guide/predictions: a list of tasks, each with `data`, what people drew in
`annotations` and what a model drew in `predictions`.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import reading, shown
from ccrop_pipeline.exchange.annotations import (
    CONTENT,
    Annotated,
    Annotations,
    Frame,
    ImageBoxes,
    boxes_by_image,
    expect_shares,
    file_name,
    of_file,
    turned_by,
    write_joined,
)
from ccrop_pipeline.exchange.masks import score_of

LOCAL_FILES: Final = "/data/local-files/?d="
_NEEDED: Final = (
    "Expected is an export as JSON (not JSON-MIN): a list of tasks, each with data and with "
    "annotations or predictions, whose regions are rectangles."
)
_RECTANGLES: Final = ("rectanglelabels", "rectangle")
_OTHER_SHAPES = re.compile("(polygon|brush|ellipse|keypoint|vector|bitmask|video)(labels)?")
_UPLOADED = re.compile(r"data/upload/\d+/[0-9a-f]{8}-")  # put before the names of uploaded files


def read_label_studio(path: str | Path) -> Annotations:
    """Read the rectangles that people drew, or where nobody did those that a model predicted.

    Of several annotations of a task the one counts that is marked as ground truth, else the
    newest; such that were skipped do not count. Of a rotated rectangle the box around it is taken.

    Raises:
        CcropError: If it is no such JSON, an image has other shapes than rectangles or was turned
            by hand, or two tasks are of one image.
    """
    path = local_path(path)
    with reading(path, "is no Label Studio export", _NEEDED):
        tasks = json.loads(path.read_bytes())
        if not isinstance(tasks, list):
            raise ValueError(f"tasks are {shown(tasks)}")
        names = Counter(_name(task["data"]) for task in tasks)
        for name, count in names.most_common(1):
            if count > 1:
                raise ValueError(f"{count} tasks are of the image {shown(name)}")
        found = dict(zip(names, map(_regions, tasks), strict=True))
        for annotated in found.values():
            if annotated.frame == "shares":
                expect_shares(annotated.boxes, path, "Numbers are percent of the image.")
    return of_file("label-studio", found, path)


def _name(data: dict[str, Any]) -> str:
    """Return the key that our export left with a task, or the path in the address of its image."""
    name = data.get("key", data.get("image"))
    if not isinstance(name, str):
        raise ValueError(f"a task has the data {shown(data)}, without key and image")
    if "key" in data:
        return name
    parts = urlsplit(name)
    inner = parse_qs(parts.query).get("d")
    return inner[0] if inner else _UPLOADED.sub("", unquote(parts.path).lstrip("/"))


def _regions(task: dict[str, Any]) -> Annotated:
    drawn = [each for each in task.get("annotations") or [] if not each.get("was_cancelled")]
    drawn = drawn or task.get("predictions") or []
    chosen = max(drawn, key=_weight) if drawn else {"result": []}
    boxes: list[list[float]] = []
    scores: list[float] = []
    sizes: set[Frame] = set()
    for region in chosen["result"]:
        kind = region["type"]
        if kind in _RECTANGLES:
            size, box = _rectangle(region)
            sizes.add(size)
            boxes.append(box)
            scores.append(score_of(region))
        elif _OTHER_SHAPES.fullmatch(kind):
            raise ValueError(f"a region of {shown(task['data'])} is of the type {shown(kind)}")
    if len(sizes) > 1:
        raise ValueError(f"the regions of {shown(task['data'])} are of images of several sizes")
    frame = sizes.pop() if sizes else "shares"
    sides = [1, 1] if isinstance(frame, str) else frame
    edges = np.array(boxes, np.float64).reshape(-1, 4) / 100 * np.tile(sides, 2)
    return Annotated(edges, frame, np.array(scores, np.float64))


def _weight(annotation: dict[str, Any]) -> tuple[bool, str]:
    return bool(annotation.get("ground_truth")), str(annotation.get("created_at", ""))


def _rectangle(region: dict[str, Any]) -> tuple[Frame, list[float]]:
    """Return the size of the image of a region, and its box in percent."""
    if region.get("image_rotation"):
        raise ValueError(f"an image was turned by {shown(region['image_rotation'])} degrees")
    value = region["value"]
    x, y, width, height = (float(value[name]) for name in ("x", "y", "width", "height"))
    frame: Frame = "shares"
    if "original_width" in region:
        frame = region["original_width"], region["original_height"]
        if not all(type(side) is int and side >= 1 for side in frame):
            raise ValueError(f"an image has the sides {shown(frame)}")
    box = [x, y, x + width, y + height]
    rotation = float(value.get("rotation") or 0)
    if not rotation:
        return frame, box
    if isinstance(frame, str):
        raise ValueError("a rotated rectangle has no original_width and original_height")
    # About the upper left corner, in pixels: percents across and down differ.
    return frame, turned_by(box, rotation, (x, y), aspect=frame[0] / frame[1])


def write_label_studio(
    box_set: BoxSet, path: Path, suffix: str, *, turned: bool, prefix: str = LOCAL_FILES
) -> None:
    """Write a task with a prediction for each image that can be read.

    A labelling interface that shows it has `<Image name="image" value="$image"/>` and
    `<RectangleLabels name="label" toName="image">` with the label `content`.

    Args:
        box_set: The boxes.
        path: File to write.
        suffix: Put behind keys without an extension to make the name of its file.
        turned: Whether sizes and boxes are for images that are turned upright.
        prefix: Put before each name, percent-encoded, to make the address of the image.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        tasks = (_task(i, prefix, suffix) for i in boxes_by_image(box_set, turned=turned))
        write_joined(file, (json.dumps(task, ensure_ascii=False) for task in tasks))
        file.write("]\n")


def _task(image: ImageBoxes, prefix: str, suffix: str) -> dict[str, Any]:
    common = {
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
    }
    regions = [
        {"id": f"box{number}", **common, "value": _value(box)}
        for number, box in enumerate(image.boxes, 1)
    ]
    address = prefix + quote(file_name(image.key, suffix))
    return {
        "data": {"image": address, "key": image.key},
        "predictions": [{"model_version": "ccrop", "result": regions}],
    }


def _value(box: list[float]) -> dict[str, Any]:
    x_min, y_min, x_max, y_max = (100 * edge for edge in box)
    place = {"x": x_min, "y": y_min, "width": x_max - x_min, "height": y_max - y_min}
    return {**place, "rotation": 0, "rectanglelabels": [CONTENT]}
