"""COCO detection JSON: `bbox` is left, top, width and height in pixels.

The format is that of Lin et al., "Microsoft COCO: Common Objects in Context" (arXiv 1405.0312), as
its data are published. Only `images` (`id`, `file_name`, `width`, `height`) and
`annotations` (`image_id`, `bbox`, `iscrowd`) count here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.files import sha256_of
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError, reading, shown
from ccrop_pipeline.exchange.annotations import (
    Annotated,
    Annotations,
    found_boxes,
    in_pixels,
    sizes_of,
)

_NEEDED: Final = (
    "It needs images with id and file_name, and annotations with image_id and bbox [x, y, width, "
    "height]."
)


def read_coco(path: str | Path) -> Annotations:
    """Read the boxes of all images, those of crowds left out: they surround many objects.

    Annotations of images that the file does not list, as where it was cut down to some of them,
    are counted and passed over.

    Raises:
        CcropError: If the file is no such JSON, or names two images alike.
    """
    path = local_path(path)
    with reading(path, "is no COCO detection file", _NEEDED):
        data = json.loads(path.read_bytes())  # in any UTF, with a byte order mark or without
        images = {_id(image["id"]): image for image in data["images"]}
        if len(images) < len(data["images"]):
            raise ValueError("two images have the same id")
        boxes: dict[str, list[list[float]]] = {number: [] for number in images}
        unlisted = 0
        for annotation in data["annotations"]:
            number = _id(annotation["image_id"])
            if number not in boxes:
                unlisted += 1
            elif not annotation.get("iscrowd"):
                boxes[number].append(_corners(annotation["bbox"]))
        found = {
            _name(image): Annotated(_array(boxes[number]), _frame(image))
            for number, image in images.items()
        }
    if unlisted and unlisted == len(data["annotations"]):
        raise CcropError(
            f"{path}: none of its {unlisted} annotations has the id of an image that it lists. "
            "Give the file whose images were annotated."
        )
    if len(found) < len(images):
        raise CcropError(
            f"{path} gives {len(images)} images only {len(found)} different names. Give each "
            "file_name its folder, or import the parts one by one."
        )
    return Annotations("coco", list(found), found.__getitem__, sha256_of(path), unlisted)


def _id(value: Any) -> str:
    """Return an id as text: files name the same image 7, 7.0 and "7"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"an id is {shown(value)}")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _corners(bbox: Any) -> list[float]:
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise TypeError(f"a bbox is {shown(bbox)}")
    x, y, width, height = map(float, bbox)
    return [x, y, x + width, y + height]


def _name(image: dict[str, Any]) -> str:
    name = image["file_name"]
    if not isinstance(name, str | int):
        raise TypeError(f"a file_name is {shown(name)}")
    return str(name)


def _array(boxes: list[list[float]]) -> NDArray[np.float64]:
    return np.array(boxes, np.float64).reshape(-1, 4)


def _frame(image: dict[str, Any]) -> Any:
    width, height = image.get("width"), image.get("height")
    if not width or not height:
        return "stored"
    if int(width) < 1 or int(height) < 1:
        raise ValueError(f"an image has the sides {shown(width)} and {shown(height)}")
    return int(width), int(height)


def write_coco(box_set: BoxSet, path: Path, suffix: str, *, turned: bool) -> None:
    """Write one category, `content`; images whose box is no find have no annotation.

    The shards are read twice, for the two lists, and never all at once.

    Args:
        box_set: The boxes.
        path: File to write.
        suffix: Put behind each key to make its `file_name`.
        turned: Whether sizes and boxes are for images that are turned upright.
    """
    with path.open("w", encoding="utf-8") as file:
        info = {"description": "boxes of content", "ccrop": box_set.manifest.provenance.to_json()}
        if turned:
            info["frame"] = "upright"
        file.write(f'{{"info": {json.dumps(info)},\n')
        file.write('"categories": [{"id": 1, "name": "content"}],\n"images": [')
        _write_list(file, _images(box_set, suffix, turned=turned))
        file.write('],\n"annotations": [')
        _write_list(file, _annotations(box_set, turned=turned))
        file.write("]}\n")


def _write_list(file: TextIO, entries: Iterator[dict[str, Any]]) -> None:
    for number, entry in enumerate(entries):
        file.write((",\n" if number else "\n") + json.dumps(entry, ensure_ascii=False))


def _images(box_set: BoxSet, suffix: str, *, turned: bool) -> Iterator[dict[str, Any]]:
    number = 0
    for _, table in box_set.tables(heatmaps=False):
        sizes = sizes_of(table, turned=turned).tolist()
        for key, (width, height) in zip(table.keys, sizes, strict=True):
            number += 1
            yield {"id": number, "file_name": key + suffix, "width": width, "height": height}


def _annotations(box_set: BoxSet, *, turned: bool) -> Iterator[dict[str, Any]]:
    first = number = 0
    for _, table in box_set.tables(heatmaps=False):
        rows, boxes = found_boxes(table, turned=turned)
        pixels = in_pixels(boxes, sizes_of(table, turned=turned)[rows]).tolist()
        for row, (x, y, width, height) in zip(rows.tolist(), pixels, strict=True):
            number += 1
            entry = {"id": number, "image_id": first + row + 1, "category_id": 1}
            size = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            yield entry | size
        first += len(table)
