"""YOLO labels: a text file for each image, a box a line, as Ultralytics reads them.

The format is that of Ultralytics' detection data sets: class, x and y of the centre, width and
height, all in shares of the image; the file is named as the image, and holds nothing where the
image has no object.
"""

from functools import partial
from pathlib import Path

import numpy as np

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.files import writing
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError, cause, reading, shown
from ccrop_pipeline.exchange.annotations import (
    CONTENT,
    Annotated,
    Annotations,
    boxes_by_image,
    by_stem,
    expect_shares,
    files_below,
    folder_digest,
)

_LIST = "classes.txt"  # names of the classes, which labelling tools put beside the labels


def read_yolo(folder: str | Path) -> Annotations:
    """Find the label files in a folder at any depth; each is read when its image comes.

    An empty file says that its image has no object.

    Raises:
        CcropError: If there is none.
    """
    folder = local_path(folder)
    files = [path for path in files_below(folder, "*.txt") if path.name != _LIST]
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
    with np.errstate(invalid="ignore"):
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


def write_yolo(box_set: BoxSet, folder: Path, suffix: str, *, turned: bool) -> None:
    """Write a label file for each image that can be read, and `classes.txt` with `content`.

    Args:
        box_set: The boxes.
        folder: Folder to write to.
        suffix: Put behind keys without an extension to make the name of its image.
        turned: Whether boxes are for images that are turned upright.

    Raises:
        CcropError: If two images would have one file, or a key is no path within a folder.
    """
    (folder / _LIST).write_text(f"{CONTENT}\n", encoding="utf-8")
    for name, image in by_stem(boxes_by_image(box_set, turned=turned), suffix):
        path = folder / f"{name}.txt"
        if path.name == _LIST or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise CcropError(
                f"{shown(image.key)} cannot name a label file in a folder. Rename the image, or "
                "choose another form."
            )
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(map(_line, image.boxes)), encoding="utf-8")


def _line(box: list[float]) -> str:
    x_min, y_min, x_max, y_max = box
    centre = (x_min + x_max) / 2, (y_min + y_max) / 2
    return " ".join(map(repr, [0, *centre, x_max - x_min, y_max - y_min])) + "\n"
