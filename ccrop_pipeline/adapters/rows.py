"""Boxes for Hugging Face data sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from ccrop_pipeline.adapters.choice import chosen
from ccrop_pipeline.boxset import BoxFinder, MissingBoxes
from ccrop_pipeline.crops import decode
from ccrop_pipeline.crops.transform import attach_box
from ccrop_pipeline.errors import CcropError


class BoxedRows:
    """Decodes the images of a batch of rows and transforms them, each with its box.

    For `set_transform` and `with_transform` of a data set whose image column is cast to
    `datasets.Image(decode=False)`. Left to itself the library would apply the EXIF orientation,
    which moves pixels and not boxes, and drop the names and bytes that keys are made of.

    Args:
        boxes: Folder of a box set. Where an image has several boxes, one is drawn each time its
            row is read, from torch's global generator.
        transform: From a PIL image in mode RGB that carries its box to what takes its place.
        image: Name of the image column.
        missing: What to do with an image that has no box: fail, or take the full box.

    Raises:
        CcropError: If the folder holds no complete box set.
    """

    def __init__(
        self,
        boxes: str | Path,
        transform: Callable[[Any], Any],
        image: str = "image",
        missing: MissingBoxes = "error",
    ) -> None:
        self._finder = BoxFinder(boxes, missing)
        self._transform = transform
        self._image = image

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return a batch of rows with transformed images; other columns stay.

        Args:
            rows: Columns by name. A key is the row's `key` or `__key__`, else the path beside the
                bytes, else the xxh3 of the bytes, as in `ParquetSource`.

        Raises:
            CcropError: If an image is decoded already, or has no box and that is an error.
            UnreadableImage: If an image cannot be decoded.
        """
        cells = rows[self._image]
        encoded = [_encoded(cell) for cell in cells]
        names = rows.get("key", rows.get("__key__", [cell["path"] for cell in cells]))
        keys = [
            name or xxhash.xxh3_64_hexdigest(data)
            for name, data in zip(names, encoded, strict=True)
        ]
        boxes = chosen(self._finder.find(keys), self._finder.choices(keys))
        images = [
            self._transform(attach_box(decode(data), box))
            for data, box in zip(encoded, boxes, strict=True)
        ]
        return rows | {self._image: images}


def _encoded(cell: Any) -> bytes:
    if not isinstance(cell, dict):
        raise CcropError(
            f"the images are decoded already: {type(cell).__name__}. Cast their column first: "
            'dataset.cast_column("image", datasets.Image(decode=False)).'
        )
    data = cell["bytes"]
    return Path(cell["path"]).read_bytes() if data is None else bytes(data)
