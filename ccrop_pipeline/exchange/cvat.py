"""CVAT for images 1.1: XML with an element for each image, and within it its boxes in pixels.

The format is described at https://docs.cvat.ai/docs/dataset_management/formats/format-cvat and
https://docs.cvat.ai/docs/other/xml_format.
"""

from pathlib import Path
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

import numpy as np

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError, reading, shown
from ccrop_pipeline.exchange.annotations import (
    CONTENT,
    Annotated,
    Annotations,
    boxes_by_image,
    file_name,
    of_file,
    turned_by,
)

_NEEDED: Final = (
    "Expected is the annotations.xml of an export as `CVAT for images 1.1`, taken out of its ZIP: "
    "image elements with name, width and height, and boxes in them."
)
_SHAPES: Final = ("polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")
_CHUNK: Final = 1 << 16  # bytes that are parsed at a time
_LONGEST: Final = 1 << 20  # bytes of one tag; each chunk is parsed with all of the tag before it
_DEEPEST: Final = 50


def read_cvat(path: str | Path) -> Annotations:
    """Read the boxes of all images; of a rotated one the box around it is taken.

    Files with a document type, which alone can define entities or name other files, are refused.

    Raises:
        CcropError: If it is no such XML, an image has other shapes than boxes, or two images have
            one name.
    """
    path = local_path(path)
    with reading(path, "is no CVAT file", _NEEDED):
        found = _Images().parsed(path)
    return of_file("cvat", found, path)


class _Images:
    """The images met so far while a file is parsed."""

    def __init__(self) -> None:
        self.found: dict[str, Annotated] = {}
        self.open: list[str] = []
        self.name = ""
        self.boxes: list[list[float]] = []
        self.frame = (0, 0)

    def parsed(self, path: Path) -> dict[str, Annotated]:
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        size = 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                parser.Parse(chunk)
                size += len(chunk)
                if size - max(parser.CurrentByteIndex, 0) > _LONGEST:
                    raise ValueError(f"a tag or comment has more than {_LONGEST} bytes")
        parser.Parse(b"", True)  # noqa: FBT003 - it takes no keywords
        return self.found

    def _refuse_doctype(self, *_: object) -> None:
        raise ValueError("it has a document type (<!DOCTYPE>), which CVAT never writes")

    def _start(self, tag: str, fields: dict[str, str]) -> None:
        self.open.append(tag)
        if len(self.open) > _DEEPEST:
            raise ValueError(f"its elements are nested more than {_DEEPEST} deep")
        if self.open[0] != "annotations":
            raise ValueError(f"its first element is {shown(tag)} and not annotations")
        if tag == "track":
            raise ValueError("it has tracks, as exports for video do")
        if tag == "image":
            self._start_image(fields)
        elif self.open[-2:] == ["image", "box"]:
            self.boxes.append(_box(fields))
        elif self.open[-2:-1] == ["image"] and tag in _SHAPES:
            raise ValueError(
                f"the image {shown(self.name)} has a {tag}: only boxes are read here, and polygons "
                "and masks from an export as COCO"
            )

    def _start_image(self, fields: dict[str, str]) -> None:
        if self.open != ["annotations", "image"]:
            raise ValueError("an image is no child of annotations")
        self.name, self.boxes = fields["name"], []
        self.frame = int(fields["width"]), int(fields["height"])
        if min(self.frame) < 1:
            raise ValueError(f"the image {shown(self.name)} has the sides {self.frame}")
        if self.name in self.found:
            raise ValueError(f"two images are named {shown(self.name)}")

    def _end(self, tag: str) -> None:
        self.open.pop()
        if tag == "image":
            edges = np.array(self.boxes, np.float64).reshape(-1, 4)
            self.found[self.name] = Annotated(edges, self.frame)


def _box(fields: dict[str, str]) -> list[float]:
    box = [float(fields[name]) for name in ("xtl", "ytl", "xbr", "ybr")]
    x_min, y_min, x_max, y_max = box
    rotation = float(fields.get("rotation", 0))
    return turned_by(box, rotation, ((x_min + x_max) / 2, (y_min + y_max) / 2)) if rotation else box


def write_cvat(box_set: BoxSet, path: Path, suffix: str, *, turned: bool) -> None:
    """Write an element for each image that can be read; its boxes have the label `content`.

    Args:
        box_set: The boxes.
        path: File to write.
        suffix: Put behind keys without an extension to make the name of its image.
        turned: Whether sizes and boxes are for images that are turned upright.

    Raises:
        CcropError: If a key has a character that no XML can have.
    """
    manifest = box_set.manifest
    size = manifest.rows - manifest.statistics.counts["unreadable"]
    with path.open("w", encoding="utf-8") as file:
        file.write(_HEAD.format(size=size, label=CONTENT))
        for number, image in enumerate(boxes_by_image(box_set, turned=turned)):
            name = file_name(image.key, suffix)
            if not {"\ufffe", "\uffff"}.isdisjoint(name):  # not in `Char` of XML 1.0
                raise CcropError(f"{shown(name)} cannot be written as XML. Rename the image.")
            place = f'width="{image.width}" height="{image.height}"'
            file.write(f'  <image id="{number}" name={quoteattr(name)} {place}>\n')
            for x_min, y_min, x_max, y_max in image.boxes:
                first = f'xtl="{x_min * image.width!r}" ytl="{y_min * image.height!r}"'
                last = f'xbr="{x_max * image.width!r}" ybr="{y_max * image.height!r}"'
                file.write(f'    <box label="{CONTENT}" source="auto" occluded="0" ')
                file.write(f'{first} {last} z_order="0"></box>\n')
            file.write("  </image>\n")
        file.write("</annotations>\n")


_HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <name>ccrop</name>
      <size>{size}</size>
      <mode>annotation</mode>
      <labels>
        <label>
          <name>{label}</name>
          <type>rectangle</type>
          <attributes></attributes>
        </label>
      </labels>
    </task>
  </meta>
"""
