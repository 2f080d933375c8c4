"""Boxes as other tools keep them, whatever the files look like."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

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


def read_yolo(folder: str | Path) -> Annotations:
    """Find the label files in a folder at any depth; each is read when its image comes.

    An empty file says that its image has no object.

    Raises:
        CcropError: If there is none.
    """
    folder = local_path(folder)
    files = [path for path in files_below(folder, "*.txt") if path.name not in _LISTS]
    if not files:
        raise CcropError(f"{folder} holds no label files *.txt. Check the path.")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in files]
    return Annotations("yolo", names, partial(_read_labels, folder), folder_digest(folder, files))


def _read_labels(folder: Path, name: str) -> Annotated:
    path = folder / f"{name}.txt"
    with reading(path, "is no label file", "Expected is text in UTF-8, a box a line."):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [_numbers(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    numbers = np.array(rows, np.float64).reshape(-1, 5)
    centres, half = numbers[:, :2], numbers[:, 2:4] / 2  # what is not finite is left out later
    boxes = np.concatenate([centres - half, centres + half], axis=1)
    expect_shares(boxes, path, "Divide them by the width and height of the image.")
    return Annotated(boxes, "shares", numbers[:, 4])


def _numbers(path: Path, number: int, line: str) -> list[float]:
    words = line.split()
    try:
        # A sixth word is the confidence of a detector.
        if len(words) not in (5, 6):
            raise ValueError(f"words: {len(words)}")
        return [float(word) for word in [*words[1:], "nan"][:5]]
    except ValueError as error:
        raise CcropError(
            f"{path} line {number} is no box ({cause(error)}): {shown(line)}. Expected are class, "
            "x and y of the centre, width and height, all as shares of the image; polygons are "
            "not read."
        ) from error


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
