"""YOLO labels: a text file an image, a line `class x_centre y_centre width height` a box."""

from functools import partial
from pathlib import Path

import numpy as np

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange.annotations import Annotated, Annotations, folder_digest

_LISTS = {"classes.txt"}  # names of the classes, which labelling tools put beside the labels


def read_yolo(folder: Path) -> Annotations:
    """Find the label files in a folder at any depth; each is read when its image comes.

    An empty file says that its image has no object.

    Raises:
        CcropError: If there is none.
    """
    files = sorted(path for path in folder.rglob("*.txt") if path.name not in _LISTS)
    if not files:
        raise CcropError(f"{folder} holds no label files *.txt. Check the path.")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in files]
    return Annotations("yolo", names, partial(_read, folder), folder_digest(folder, files))


def _read(folder: Path, name: str) -> Annotated:
    path = folder / f"{name}.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [_numbers(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    centres = np.array(rows, np.float64).reshape(-1, 4)
    half = centres[:, 2:] / 2
    corners = np.concatenate([centres[:, :2] - half, centres[:, :2] + half], axis=1)
    return Annotated(corners, "shares")


def _numbers(path: Path, number: int, line: str) -> list[float]:
    words = line.split()
    try:
        # A sixth word is the confidence of a detector.
        if len(words) not in (5, 6):
            raise ValueError(f"{len(words)} words")
        return [float(word) for word in words[1:5]]
    except ValueError as error:
        raise CcropError(
            f"{path} line {number} is no box ({error}): {line[:80]!r}. Expected are class, x and y "
            "of the centre, width and height, all as shares of the image; polygons are not read."
        ) from error
