"""Samples of other libraries, each with its box: data sets, tables and pipelines."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
import xxhash
from numpy.typing import NDArray
from PIL import ExifTags
from torch.utils.data import Dataset

from ccrop_pipeline.boxset import Boxes, BoxSet, Choices, MissingBoxes, opened, upright
from ccrop_pipeline.crops import attach_box
from ccrop_pipeline.errors import CcropError, counted
from ccrop_pipeline.images import decode


def drawn(box_set: BoxSet, keys: Sequence[str], missing: MissingBoxes) -> NDArray[np.float32]:
    """Look up the boxes of keys, (n, 4); where images have several, draw one of each."""
    boxes, choices = box_set.find(keys, missing=missing), box_set.choices(keys, missing=missing)
    return chosen(boxes, choices)


def chosen(boxes: NDArray[np.float32], choices: Choices | None) -> NDArray[np.float32]:
    """Draw one box of each image, for all the views that are cut from it.

    Like the windows of `ContrastiveCrop`, it is drawn from torch's global generator, which is
    left alone where there is nothing to draw.

    Args:
        boxes: float32 (n, 4), what is taken where `choices` is None.
        choices: n rows.

    Returns:
        float32 (n, 4).
    """
    if choices is None:
        return boxes
    return choices.pick(torch.rand(len(choices), dtype=torch.float64, device="cpu").numpy())


class _Stored(NamedTuple):
    """How an image is stored that has an EXIF orientation."""

    orientation: int
    width: int
    height: int


class StoredTurned:
    """The images of a box set whose EXIF orientation is not 1."""

    def __init__(self, box_set: BoxSet) -> None:
        self._box_set, self._by_row, first = box_set, dict[int, _Stored](), 0
        for _, table in box_set.tables(heatmaps=False):
            for row in np.flatnonzero(table.orientation != 1).tolist():
                size = table.sizes[row].tolist()
                self._by_row[first + row] = _Stored(int(table.orientation[row]), *size)
            first += len(table)

    def of(self, keys: Sequence[str]) -> list[_Stored | None]:
        """Return how each image is stored, None for one that is upright or has no row."""
        if not self._by_row:
            return [None] * len(keys)
        return [self._by_row.get(row) for row in self._box_set.lookup().rows(keys).tolist()]


def as_given(
    box: NDArray[np.float32], image: PIL.Image.Image, stored: _Stored | None, key: str
) -> list[float]:
    """Return a box of the stored pixels as one of an image that its library may have turned.

    Args:
        box: float32 (4,).
        image: As the library gives it.
        stored: How it is stored; None where that is upright.
        key: Its key, for messages.

    Raises:
        CcropError: If there is no telling whether it was turned.
    """
    # What turns an image by its EXIF orientation takes that out, `convert` leaves it there.
    if stored is None or image.getexif().get(ExifTags.Base.Orientation) == stored.orientation:
        return list(box)
    if stored.orientation > 4 and image.width != image.height and stored.width != stored.height:
        turned = (image.width > image.height) != (stored.width > stored.height)
        return list(upright(box[None], stored.orientation)[0] if turned else box)
    raise CcropError(
        f"the image {key!r} is stored with the EXIF orientation {stored.orientation} and comes "
        "without it, so that there is no telling whether its pixels, and with them its box, are "
        "turned. Let its library give the pixels as they are stored (PIL.Image.open, without "
        "ImageOps.exif_transpose), or use BoxedRows."
    )


class BoxedDataset(Dataset[Any]):
    """A data set whose PIL images carry their boxes into the transform.

    Args:
        dataset: Samples by position, each a tuple or a dict with a PIL image in it.
        keys: The key of each sample, in the data set's order; `folder_keys` has an ImageFolder's.
        boxes: A box set, or its folder: a local path or an address. Where an image has several
            boxes, one is drawn each time the sample is read, from torch's global generator.
        transform: Applied to each image once it has its box; also an attribute, which frameworks
            may set.
        image: Position or name of the image in a sample.
        missing: What to do with an image that has no box: fail, or take the full box.

    Boxes of images that the data set has turned by their EXIF orientation are turned with them.

    Raises:
        CcropError: If keys and data set differ in length, images have no box, or the data set
            changes images by a transform of its own or replaces those it cannot read.
    """

    def __init__(
        self,
        dataset: Any,
        keys: Sequence[str],
        boxes: Boxes,
        *,
        transform: Callable[[Any], Any] | None = None,
        image: int | str = 0,
        missing: MissingBoxes = "error",
    ) -> None:
        if len(keys) != len(dataset):
            raise CcropError(
                f"there are {counted(len(keys), 'key')} for {counted(len(dataset), 'image')}. "
                "Give each image its key, "
                "in the data set's order."
            )
        _refuse_what_would_not_fit(dataset)
        self.dataset = dataset
        self.transform = transform
        box_set = opened(boxes)
        self._boxes = box_set.find(keys, missing=missing)
        self._choices = box_set.choices(keys, missing=missing)
        turned = enumerate(StoredTurned(box_set).of(keys))
        self._turned = {i: (stored, keys[i]) for i, stored in turned if stored}
        self._image = image

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, i: int) -> Any:
        """Return a sample, its image transformed.

        Raises:
            CcropError: If the sample is no tuple or dict, its image is no PIL image, or there is
                no telling whether that was turned by its EXIF orientation.
        """
        sample = self.dataset[i]
        if not isinstance(sample, tuple | list | dict):
            raise CcropError(
                f"sample {i} is a {type(sample).__name__} and no tuple or dict with an image in "
                "it. Let the data set give (image, label)."
            )
        parts: Any = dict(sample) if isinstance(sample, dict) else list(sample)
        image = parts[self._image]
        if not isinstance(image, PIL.Image.Image):
            raise CcropError(
                f"the image of sample {i} is a {type(image).__name__} and no PIL image. Let the "
                "data set give PIL images, and turn them into tensors in BoxedDataset's transform."
            )
        attach_box(image, as_given(self._box(i), image, *self._turned.get(i, (None, ""))))
        parts[self._image] = image if self.transform is None else self.transform(image)
        return parts if isinstance(parts, dict) else tuple(parts)

    def _box(self, i: int) -> Any:
        row = np.array([i])
        choices = None if self._choices is None else self._choices.take(row)
        return chosen(self._boxes[row], choices)[0]


def folder_keys(dataset: Any) -> list[str]:
    """Return the keys of torchvision's ImageFolder: paths below its root, as `FolderSource` has."""
    return [PurePath(path).relative_to(dataset.root).as_posix() for path, _ in dataset.samples]


def _refuse_what_would_not_fit(dataset: Any) -> None:
    if getattr(dataset, "transform", None) is not None:
        raise CcropError(
            f"{type(dataset).__name__} has a transform of its own, after which a box need not fit "
            "its image. Give the transform to BoxedDataset instead."
        )
    # timm's ImageDataset, which logs a warning and goes on with the next image and this box.
    if getattr(dataset, "_max_retries", 1) > 1:
        raise CcropError(
            f"{type(dataset).__name__} puts the next image in the place of one that it cannot "
            "read, and that has another box. Use torchvision's ImageFolder, which timm calls "
            "torch/folder, or set TIMM_DATASET_MAX_RETRIES=1."
        )


class BoxedRows:
    """From a batch of rows to transformed images, each cut by its own box.

    For `set_transform` and `with_transform` of a data set whose image column is cast to
    `datasets.Image(decode=False)`. Left to itself the library would apply the EXIF orientation,
    which moves pixels and not boxes, and drop the names and bytes that keys are made of.

    Args:
        boxes: A box set, or its folder: a local path or an address. Where an image has several
            boxes, one is drawn each time its row is read, from torch's global generator.
        transform: From a PIL image in mode RGB that carries its box to what takes its place.
        image: Name of the image column.
        missing: What to do with an image that has no box: fail, or take the full box.

    Raises:
        CcropError: If the folder holds no complete box set.
    """

    def __init__(
        self,
        boxes: Boxes,
        transform: Callable[[Any], Any],
        *,
        image: str = "image",
        missing: MissingBoxes = "error",
    ) -> None:
        self._box_set, self._missing = opened(boxes), missing
        self._box_set.find([], missing=missing)  # now, and not in each worker
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
        boxes = drawn(self._box_set, keys, self._missing)
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


_Samples = Iterable[dict[str, Any]]


def add_boxes(
    boxes: Boxes, *, missing: MissingBoxes = "error"
) -> Callable[[_Samples], Iterator[dict[str, Any]]]:
    """Make a pipeline stage that attaches its box to every decoded image, joined by `__key__`.

    It comes after `decode("pil")` and before anything that changes images.

    Args:
        boxes: A box set, or its folder: a local path or an address. Where an image has several
            boxes, one is drawn each time the sample is read, from torch's global generator.
        missing: What to do with an image that has no box: fail, or take the full box.

    Returns:
        For `compose`; iterating it raises `CcropError` at a sample that has no box or no PIL
        image, or one that may have been turned by its EXIF orientation.

    Raises:
        CcropError: If the folder holds no complete box set.
    """
    box_set = opened(boxes)
    box_set.find([], missing=missing)  # now, and not in each worker
    return partial(_with_boxes, box_set, StoredTurned(box_set), missing)


def _with_boxes(
    box_set: BoxSet, turned: StoredTurned, missing: MissingBoxes, samples: _Samples
) -> Iterator[dict[str, Any]]:
    for sample in samples:
        images = [value for value in sample.values() if isinstance(value, PIL.Image.Image)]
        if not images:
            raise CcropError(
                f"sample {sample['__key__']!r} has no PIL image, only "
                f"{', '.join(name for name in sample if not name.startswith('__'))}. Put "
                'decode("pil") before add_boxes, and what makes tensors behind it.'
            )
        key = sample["__key__"]
        (box,), (stored,) = drawn(box_set, [key], missing), turned.of([key])
        for image in images:
            attach_box(image, as_given(box, image, stored, key))
        yield sample
