"""COCO detection JSON: `bbox` is left, top, width and height in pixels.

The format is that of Lin et al., "Microsoft COCO: Common Objects in Context" (arXiv 1405.0312), as
its data are published. Only `images` (`id`, `file_name`, `width`, `height`) and
`annotations` (`image_id`, `bbox`, `iscrowd`) count here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base.files import sha256_of
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange.annotations import (
    Annotated,
    Annotations,
    found_boxes,
    in_pixels,
)


def read_coco(path: str | Path) -> Annotations:
    """Read the boxes of all images, those of crowds left out: they surround many objects.

    Raises:
        CcropError: If the file is no such JSON, or names two images alike.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in data["images"]}
        boxes: dict[Any, list[list[float]]] = {number: [] for number in images}
        for annotation in data["annotations"]:
            if not annotation.get("iscrowd"):
                x, y, width, height = map(float, annotation["bbox"])
                boxes[annotation["image_id"]].append([x, y, x + width, y + height])
        found = {
            str(image["file_name"]): Annotated(_array(boxes[number]), _frame(image))
            for number, image in images.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CcropError(
            f"{path} is no COCO detection file ({type(error).__name__}: {error}). It needs images "
            "with id and file_name, and annotations with image_id and bbox [x, y, width, height]."
        ) from error
    if len(found) < len(images):
        raise CcropError(
            f"{path} gives {len(images)} images only {len(found)} different names. Give each "
            "file_name its folder, or import the parts one by one."
        )
    return Annotations("coco", list(found), found.__getitem__, sha256_of(path))


def _array(boxes: list[list[float]]) -> NDArray[np.float64]:
    return np.array(boxes, np.float64).reshape(-1, 4)


def _frame(image: dict[str, Any]) -> Any:
    width, height = image.get("width"), image.get("height")
    return (int(width), int(height)) if width and height else "stored"


def write_coco(box_set: BoxSet, path: Path, suffix: str) -> None:
    """Write one category, `content`; images whose box is no find have no annotation.

    The shards are read twice, for the two lists, and never all at once.

    Args:
        box_set: The boxes.
        path: File to write.
        suffix: Put behind each key to make its `file_name`.
    """
    with path.open("w", encoding="utf-8") as file:
        info = {"description": "boxes of content", "ccrop": box_set.manifest.provenance.to_json()}
        file.write(f'{{"info": {json.dumps(info)},\n')
        file.write('"categories": [{"id": 1, "name": "content"}],\n"images": [')
        _write_list(file, _images(box_set, suffix))
        file.write('],\n"annotations": [')
        _write_list(file, _annotations(box_set))
        file.write("]}\n")


def _write_list(file: TextIO, entries: Iterator[dict[str, Any]]) -> None:
    for number, entry in enumerate(entries):
        file.write((",\n" if number else "\n") + json.dumps(entry, ensure_ascii=False))


def _images(box_set: BoxSet, suffix: str) -> Iterator[dict[str, Any]]:
    number = 0
    for _, table in box_set.tables(heatmaps=False):
        for key, (width, height) in zip(table.keys, table.sizes.tolist(), strict=True):
            number += 1
            yield {"id": number, "file_name": key + suffix, "width": width, "height": height}


def _annotations(box_set: BoxSet) -> Iterator[dict[str, Any]]:
    first = number = 0
    for _, table in box_set.tables(heatmaps=False):
        rows, boxes = found_boxes(table)
        for row, (x, y, width, height) in zip(
            rows.tolist(), in_pixels(boxes, table.sizes[rows]).tolist(), strict=True
        ):
            number += 1
            entry = {"id": number, "image_id": first + row + 1, "category_id": 1}
            size = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            yield entry | size
        first += len(table)
