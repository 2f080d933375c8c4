"""Boxes as other tools keep them, whatever the files look like."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base.files import sha256_of
from ccrop_pipeline.boxset import OK, UNREADABLE, BoxSet, BoxTable, Choices, upright
from ccrop_pipeline.errors import CcropError, shown
from ccrop_pipeline.images.decode import extension_by_name

# What edges are measured in: shares of the sides of the image, pixels of the stored image, or
# pixels of an image with this width and height: the stored one may have another size.
Frame = Literal["shares", "stored"] | tuple[int, int]
CONTENT: Final = "content"  # the one class of what is exported


class Annotated(NamedTuple):
    """The boxes of one image.

    Attributes:
        boxes: float64 (k, 4), `x_min, y_min, x_max, y_max`, half-open; k may be 0.
        frame: What they are measured in.
        scores: How sure the tool is of each, float64 (k,), NaN where it does not say; None where
            it never says.
    """

    boxes: NDArray[np.float64]
    frame: Frame
    scores: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Annotations:
    """The boxes of many images.

    Attributes:
        kind: The form they came in and whatever else changes their meaning, such as `coco`.
        names: What the images are called there; unique.
        read: Gives the boxes of a name.
        digest: Sha256 of the files, lower-case hex.
        unlisted: Annotations that were passed over, of images that the file does not list.
        advice: What to do where no name is that of an image, in a sentence.
    """

    kind: str
    names: Sequence[str]
    read: Callable[[str], Annotated]
    digest: str
    unlisted: int = 0
    advice: str = "Give the images that were annotated, or change the names."


def files_below(folder: Path, *patterns: str) -> list[Path]:
    """Return the files of a folder at any depth that match a pattern, sorted."""
    # No pipes or devices, which have no end.
    found = {path for pattern in patterns for path in folder.rglob(pattern)}
    return sorted(path for path in found if path.is_file())


def folder_digest(root: Path, files: Iterable[Path]) -> str:
    """Hash files with their paths below a folder; lower-case hex."""
    whole = hashlib.sha256()
    for path in files:
        line = f"{path.relative_to(root).as_posix()}\0{sha256_of(path)}\n"
        whole.update(line.encode(errors="surrogateescape"))  # names need not be UTF-8
    return whole.hexdigest()


def grouped(
    names: Iterable[str],
    boxes: NDArray[np.float64],
    frame: Frame,
    *,
    scores: NDArray[np.float64] | None = None,
) -> dict[str, Annotated]:
    """Gather boxes by name; rows with a NaN name their image and give it no box.

    Args:
        names: n names, in any order, repeated or not.
        boxes: float64 (n, 4).
        frame: What they are measured in.
        scores: float64 (n,), or None.
    """
    rows: dict[str, list[int]] = {}
    known = np.all(~np.isnan(boxes), axis=1).tolist()
    for row, (name, has_box) in enumerate(zip(names, known, strict=True)):
        own = rows.setdefault(name, [])
        if has_box:
            own.append(row)
    return {
        name: Annotated(boxes[own], frame, None if scores is None else scores[own])
        for name, own in rows.items()
    }


def of_file(kind: str, found: dict[str, Annotated], path: Path) -> Annotations:
    """Return what was read from a file.

    Raises:
        CcropError: If that is nothing.
    """
    if not found:
        raise CcropError(f"{path} names no image. Give the file that has the boxes.")
    return Annotations(kind, list(found), found.__getitem__, sha256_of(path))


def expect_shares(numbers: NDArray[np.float64], where: Path, advice: str) -> None:
    """Refuse numbers that can only be pixels.

    Args:
        numbers: Edges, or whatever else is a share of a side.
        where: The file.
        advice: What to do where they are pixels.

    Raises:
        CcropError: If one is 2 or more; a box may reach a little beyond its image.
    """
    if numbers.size and np.nanmax(numbers, initial=0) >= 2:
        raise CcropError(
            f"{where} has numbers as large as {np.nanmax(numbers):g}, which are no shares of the "
            f"image but pixels. {advice}"
        )


def turned_by(
    box: Sequence[float], degrees: float, centre: tuple[float, float], *, aspect: float = 1
) -> list[float]:
    """Return the box around a box that is turned clockwise about a point.

    Args:
        box: `[x_min, y_min, x_max, y_max]`.
        degrees: Angle.
        centre: The point, x and y.
        aspect: How many pixels a unit of x is wide where one of y is 1 high.
    """
    x_min, y_min, x_max, y_max = box
    x = aspect * (np.array([x_min, x_max, x_min, x_max]) - centre[0])
    y = np.array([y_min, y_min, y_max, y_max]) - centre[1]
    angle = np.deg2rad(degrees)
    # y runs down, so that these turn clockwise.
    across = centre[0] + (x * np.cos(angle) - y * np.sin(angle)) / aspect
    down = centre[1] + x * np.sin(angle) + y * np.cos(angle)
    return [float(edge) for edge in (across.min(), down.min(), across.max(), down.max())]


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


class ImageBoxes(NamedTuple):
    """The boxes of one image of a box set, for other tools.

    Attributes:
        key: Key of the image.
        width: Of the image in pixels.
        height: Of the image in pixels.
        boxes: `[x_min, y_min, x_max, y_max]` of each, in shares; none where its box is no find.
    """

    key: str
    width: int
    height: int
    boxes: list[list[float]]


def boxes_by_image(
    box_set: BoxSet, *, turned: bool, unreadable: bool = False
) -> Iterator[ImageBoxes]:
    """Yield the images of a box set with all their boxes; only one shard is in memory.

    Args:
        box_set: The boxes.
        turned: Whether sizes and boxes are for images that are turned upright.
        unreadable: Whether to yield images that could not be decoded as well.
    """
    for _, table in box_set.tables(heatmaps=False):
        rows, found = found_boxes(table, turned=turned)
        ends = np.searchsorted(rows, np.arange(len(table)), side="right").tolist()
        boxes, sizes = found.tolist(), sizes_of(table, turned=turned).tolist()
        start = 0
        for row, end in enumerate(ends):
            if unreadable or table.status[row] != UNREADABLE:
                width, height = sizes[row]
                yield ImageBoxes(table.keys[row], width, height, boxes[start:end])
            start = end


def file_name(key: str, suffix: str) -> str:
    """Return the name of the file of an image: keys of folders are file names, those of tars not.

    Args:
        key: The key of the image.
        suffix: Put behind it where it does not end like an image.
    """
    return key if extension_by_name(key) else key + suffix


def by_stem(images: Iterable[ImageBoxes], suffix: str) -> Iterator[tuple[str, ImageBoxes]]:
    """Yield images with their names without the extension, for forms that know them by these.

    Args:
        images: The images.
        suffix: Put behind keys without an extension to make the name of its image.

    Raises:
        CcropError: If two images then have the same name.
    """
    seen: dict[str, str] = {}
    for image in images:
        name = file_name(image.key, suffix)
        stem = name.rpartition(".")[0] if extension_by_name(name) else name
        if seen.setdefault(stem, image.key) != image.key:
            raise CcropError(
                f"{shown(image.key)} and {shown(seen[stem])} are both {shown(stem)} without their "
                "extensions, which is all that this form knows of them. Rename one, or choose "
                "another form."
            )
        yield stem, image


def write_joined(file: TextIO, texts: Iterable[str]) -> None:
    """Write texts with commas between, each on a line of its own, as JSON has its members."""
    for number, text in enumerate(texts):
        file.write((",\n" if number else "\n") + text)
