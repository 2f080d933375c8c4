"""Boxes as other tools keep them, whatever the files look like."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.files import sha256_of
from ccrop_pipeline.boxset import OK, BoxTable, Choices, upright
from ccrop_pipeline.errors import CcropError, cause, reading, shown

# What edges are measured in: shares of the sides of the image, pixels of the stored image, or
# pixels of an image with this width and height: the stored one may have another size.
Frame = Literal["shares", "stored"] | tuple[int, int]
_LISTS = {"classes.txt"}  # names of the classes, which labelling tools put beside the labels


class Annotated(NamedTuple):
    """The boxes of one image.

    Attributes:
        boxes: float64 (k, 4), `x_min, y_min, x_max, y_max`, half-open; k may be 0.
        frame: What they are measured in.
    """

    boxes: NDArray[np.float64]
    frame: Frame


@dataclass(frozen=True)
class Annotations:
    """The boxes of many images.

    Attributes:
        kind: The form they came in and whatever else changes their meaning, such as `coco`.
        names: What the images are called there; unique.
        read: Gives the boxes of a name.
        digest: Sha256 of the files, lower-case hex.
        unlisted: Annotations that were passed over, of images that the file does not list.
    """

    kind: str
    names: Sequence[str]
    read: Callable[[str], Annotated]
    digest: str
    unlisted: int = 0


def read_yolo(folder: str | Path) -> Annotations:
    """Find the label files in a folder at any depth; each is read when its image comes.

    An empty file says that its image has no object.

    Raises:
        CcropError: If there is none.
    """
    folder = local_path(folder)
    files = [path for path in _files(folder, "*.txt") if path.name not in _LISTS]
    if not files:
        raise CcropError(f"{folder} holds no label files *.txt. Check the path.")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in files]
    return Annotations("yolo", names, partial(_read_labels, folder), folder_digest(folder, files))


def _read_labels(folder: Path, name: str) -> Annotated:
    path = folder / f"{name}.txt"
    with reading(path, "is no label file", "Expected is text in UTF-8, a box a line."):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [_numbers(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    centres = np.array(rows, np.float64).reshape(-1, 4)
    half = centres[:, 2:] / 2  # what is not finite is left out later
    corners = np.concatenate([centres[:, :2] - half, centres[:, :2] + half], axis=1)
    return Annotated(corners, "shares")


def _numbers(path: Path, number: int, line: str) -> list[float]:
    words = line.split()
    try:
        # A sixth word is the confidence of a detector.
        if len(words) not in (5, 6):
            raise ValueError(f"words: {len(words)}")
        return [float(word) for word in words[1:5]]
    except ValueError as error:
        raise CcropError(
            f"{path} line {number} is no box ({cause(error)}): {shown(line)}. Expected are class, "
            "x and y of the centre, width and height, all as shares of the image; polygons are "
            "not read."
        ) from error


def read_masks(folder: str | Path) -> Annotations:
    """Find the PNG files in a folder at any depth; each is decoded when its image comes.

    Raises:
        CcropError: If there is none.
    """
    folder = local_path(folder)
    files = _files(folder, "*.png")
    if not files:
        raise CcropError(f"{folder} holds no masks *.png. Check the path.")
    names = [path.relative_to(folder).as_posix() for path in files]
    return Annotations("masks", names, partial(_read_mask, folder), folder_digest(folder, files))


def _read_mask(folder: Path, name: str) -> Annotated:
    with (
        reading(folder / name, "cannot be decoded as a mask", "A mask is a PNG."),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Whatever a file says that it is: some formats start other programs.
        with Image.open(folder / name, formats=("PNG",)) as mask:
            # The numbers of a palette's colours, and grey of any depth, are kept as they are.
            pixels = np.asarray(mask)
            transparent = mask.mode in ("LA", "RGBA")
    if transparent:
        pixels = pixels[..., :-1]
    content = pixels != 0 if pixels.ndim == 2 else (pixels != 0).any(axis=-1)
    height, width = content.shape
    return Annotated(_box(content), (width, height))


def _files(folder: Path, pattern: str) -> list[Path]:
    # No pipes or devices, which have no end.
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def _box(content: NDArray[np.bool_]) -> NDArray[np.float64]:
    columns, rows = (np.flatnonzero(content.any(axis=axis)) for axis in (0, 1))
    if not len(rows):
        return np.empty((0, 4))
    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return np.array([edges], np.float64)


def folder_digest(root: Path, files: Iterable[Path]) -> str:
    """Hash files with their paths below a folder; lower-case hex."""
    whole = hashlib.sha256()
    for path in files:
        line = f"{path.relative_to(root).as_posix()}\0{sha256_of(path)}\n"
        whole.update(line.encode(errors="surrogateescape"))  # names need not be UTF-8
    return whole.hexdigest()


def grouped(names: Iterable[str], boxes: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Gather boxes by name; rows with a NaN name their image and give it no box.

    Args:
        names: n names, in any order, repeated or not.
        boxes: float64 (n, 4).
    """
    rows: dict[str, list[int]] = {}
    known = np.all(~np.isnan(boxes), axis=1).tolist()
    for row, (name, has_box) in enumerate(zip(names, known, strict=True)):
        own = rows.setdefault(name, [])
        if has_box:
            own.append(row)
    return {name: boxes[own] for name, own in rows.items()}


def expect_shares(boxes: NDArray[np.float64], where: Path) -> None:
    """Refuse edges that can only be pixels.

    Raises:
        CcropError: If an edge is 2 or more; a box may reach a little beyond its image.
    """
    if len(boxes) and np.nanmax(boxes, initial=0) >= 2:
        raise CcropError(
            f"{where} has edges as large as {np.nanmax(boxes):g}, which are no shares of the "
            "image. If they are pixels of the stored images, set `pixels`."
        )


def found_boxes(
    table: BoxTable, *, turned: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return every box that is a find, with its row: all choices where there are some.

    Args:
        table: Rows of a box set.
        turned: Whether boxes are for images that are turned upright, and not as they are stored.

    Returns:
        Rows, int64 (m,), and boxes, float32 (m, 4).
    """
    rows, boxes = np.flatnonzero(table.status == OK), table.boxes
    if table.choices is None:
        boxes = boxes[rows]
    else:
        chosen: Choices = table.choices.take(rows)
        rows, boxes = np.repeat(rows, chosen.counts), chosen.boxes
    return rows, upright(boxes, table.orientation[rows]) if turned else boxes


def sizes_of(table: BoxTable, *, turned: bool = False) -> NDArray[np.uint32]:
    """Return width and height of each image in pixels, uint32 (n, 2), as stored or turned."""
    if not turned:
        return table.sizes
    return np.where(table.orientation[:, None] > 4, table.sizes[:, ::-1], table.sizes)


def in_pixels(boxes: NDArray[np.float32], sizes: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Turn normalised boxes (m, 4) of images of these widths and heights, (m, 2), into pixels.

    Returns:
        float64 (m, 4), left, top, width and height.
    """
    edges = boxes.astype(np.float64)
    sides = sizes.astype(np.float64)
    return np.concatenate([edges[:, :2] * sides, (edges[:, 2:] - edges[:, :2]) * sides], axis=1)
