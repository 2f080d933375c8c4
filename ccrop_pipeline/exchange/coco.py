"""COCO detection JSON: `bbox` is left, top, width and height in pixels.

The format is that of Lin et al., "Microsoft COCO: Common Objects in Context" (arXiv 1405.0312), as
its data are published, and that of the results that its evaluation takes. Of `images` only `id`,
`file_name`, `width` and `height` count here, of annotations and results `image_id`, `bbox`,
`segmentation`, `score` and `iscrowd`.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.files import sha256_of
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError, SettingError, counted, reading, shown
from ccrop_pipeline.exchange.annotations import (
    Annotated,
    Annotations,
    Frame,
    boxes_by_image,
    file_name,
    write_joined,
)
from ccrop_pipeline.exchange.masks import rle_size, score_of, segmentation_box

_NEEDED: Final = (
    "It needs images with id and file_name, and annotations with image_id and bbox [x, y, width, "
    "height] or segmentation; or it is a list of such annotations, the results of a detector."
)
_ADVICE: Final = (
    "If they are ids, set `images` to the COCO JSON that lists the images with these ids; else "
    "give the images that were annotated."
)


def read_coco(path: str | Path, *, images: str | Path | None = None) -> Annotations:
    """Read the boxes of all images, those of crowds left out: they surround many objects.

    A file without `images`, such as a list of results, gets them from another; without that, its
    ids are taken for the names of the images. Annotations of images that are not listed, as where
    the file was cut down to some of them, are counted and passed over.

    Args:
        path: The file.
        images: The file whose `images` it was made for, if it has none of its own.

    Raises:
        SettingError: If `images` is given for a file that lists its own.
        CcropError: If a file is no such JSON, or names two images alike.
    """
    path = local_path(path)
    with reading(path, "is no COCO detection file", _NEEDED):
        data = json.loads(path.read_bytes())  # in any UTF, with a byte order mark or without
        annotations = data if isinstance(data, list) else data["annotations"]
        names, frames = _image_list(path, data, None if images is None else local_path(images))
        found, unlisted = _gathered(annotations, names, frames)
    if unlisted and unlisted == len(annotations):
        raise CcropError(
            f"{path}: none of its {unlisted} annotations has the id of an image that "
            f"{images or 'it'} lists. Give the file whose images were annotated."
        )
    if len(found) < len(names):
        raise CcropError(
            f"{images or path} gives {counted(len(names), 'image')} only {len(found)} different "
            "names. Give each file_name its folder, or import the parts one by one."
        )
    digest = sha256_of(path)
    if images is not None:
        digest = hashlib.sha256(f"{digest} {sha256_of(local_path(images))}".encode()).hexdigest()
    made = Annotations("coco", list(found), found.__getitem__, digest, unlisted)
    by_id = isinstance(data, list) and images is None
    return replace(made, advice=_ADVICE) if by_id else made


def _image_list(
    path: Path, data: Any, images: Path | None
) -> tuple[dict[str, str], dict[str, Frame]]:
    """Return the names of images, and what their boxes are measured in, by id."""
    own = data.get("images") if isinstance(data, dict) else None
    if images is not None:
        if own is not None:
            raise SettingError(f"{path} lists its images itself: leave out `images`.")
        with reading(images, "lists no images", "It needs images with id and file_name."):
            return _listed(json.loads(images.read_bytes())["images"])
    if isinstance(data, list):
        ids = dict.fromkeys(_id(annotation["image_id"]) for annotation in data)
        return {number: number for number in ids}, dict.fromkeys(ids, "stored")
    return _listed(data["images"])


def _listed(images: list[dict[str, Any]]) -> tuple[dict[str, str], dict[str, Frame]]:
    names = {_id(image["id"]): _name(image) for image in images}
    if len(names) < len(images):
        raise ValueError("two images have the same id")
    return names, {_id(image["id"]): _frame(image) for image in images}


def _gathered(
    annotations: list[dict[str, Any]], names: dict[str, str], frames: dict[str, Frame]
) -> tuple[dict[str, Annotated], int]:
    """Return the boxes of images by name, and how many are of images that are not listed."""
    boxes: dict[str, list[list[float]]] = {number: [] for number in names}
    scores: dict[str, list[float]] = {number: [] for number in names}
    unlisted = 0
    for annotation in annotations:
        number = _id(annotation["image_id"])
        if number not in boxes:
            unlisted += 1
        elif not annotation.get("iscrowd"):
            frames[number] = _agreed(frames[number], annotation)
            box = _box(annotation, frames[number])
            if box is not None:
                boxes[number].append(box)
                scores[number].append(score_of(annotation))
    found = {
        name: Annotated(
            np.array(boxes[number], np.float64).reshape(-1, 4),
            frames[number],
            np.array(scores[number], np.float64),
        )
        for number, name in names.items()
    }
    return found, unlisted


def _agreed(frame: Frame, annotation: dict[str, Any]) -> Frame:
    """Return the size of an image, where a mask of it can say more than its `width` and `height`.

    CutLER's `maskcut.py` writes `width` and `height` of images in each other's place, and its own
    loader turns them back (`check_image_size`); the sizes of its masks are right.
    """
    segmentation = annotation.get("segmentation")
    if not isinstance(segmentation, dict):
        return frame
    size = rle_size(segmentation)
    return size if frame in ("stored", size[::-1]) else frame


def _box(annotation: dict[str, Any], frame: Frame) -> list[float] | None:
    if "bbox" in annotation:
        return _corners(annotation["bbox"])
    segmentation = annotation.get("segmentation")
    if not segmentation:
        raise KeyError("bbox")
    if isinstance(segmentation, dict) and rle_size(segmentation) != frame:
        raise ValueError(f"a mask of {rle_size(segmentation)} px is of an image of {frame} px")
    return segmentation_box(segmentation)


def _id(value: Any) -> str:
    """Return an id as text: files name the same image 7, 7.0 and "7"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"an id is {shown(value)}")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _corners(bbox: Any) -> list[float]:
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError(f"a bbox is {shown(bbox)}")
    x, y, width, height = map(float, bbox)
    return [x, y, x + width, y + height]


def _name(image: dict[str, Any]) -> str:
    name = image["file_name"]
    if not isinstance(name, str | int):
        raise ValueError(f"a file_name is {shown(name)}")
    return str(name)


def _frame(image: dict[str, Any]) -> Frame:
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
        suffix: Put behind keys without an extension to make its `file_name`.
        turned: Whether sizes and boxes are for images that are turned upright.
    """
    with path.open("w", encoding="utf-8") as file:
        info = {"description": "boxes of content", "ccrop": box_set.manifest.provenance.to_json()}
        if turned:
            info["frame"] = "upright"
        file.write(f'{{"info": {json.dumps(info)},\n')
        file.write('"categories": [{"id": 1, "name": "content"}],\n"images": [')
        write_joined(file, _images(box_set, suffix, turned=turned))
        file.write('],\n"annotations": [')
        write_joined(file, _annotations(box_set, turned=turned))
        file.write("]}\n")


def _images(box_set: BoxSet, suffix: str, *, turned: bool) -> Iterator[str]:
    images = boxes_by_image(box_set, turned=turned, unreadable=True)
    for number, (key, width, height, _) in enumerate(images, 1):
        name = file_name(key, suffix)
        entry = {"id": number, "file_name": name, "width": width, "height": height}
        yield json.dumps(entry, ensure_ascii=False)


def _annotations(box_set: BoxSet, *, turned: bool) -> Iterator[str]:
    number = 0
    images = boxes_by_image(box_set, turned=turned, unreadable=True)
    for image_number, image in enumerate(images, 1):
        for x_min, y_min, x_max, y_max in image.boxes:
            number += 1
            width, height = (x_max - x_min) * image.width, (y_max - y_min) * image.height
            entry = {"id": number, "image_id": image_number, "category_id": 1}
            bbox = [x_min * image.width, y_min * image.height, width, height]
            size = {"bbox": bbox, "area": width * height, "iscrowd": 0}
            yield json.dumps(entry | size, ensure_ascii=False)
