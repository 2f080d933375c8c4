"""Boxes as other tools keep them, whatever the files look like."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.errors import CcropError

# What edges are measured in: shares of the sides of the image, pixels of the stored image, or
# pixels of an image of this width and height, of which the stored one may be another size.
Frame = Literal["shares", "stored"] | tuple[int, int]


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
    """

    kind: str
    names: Sequence[str]
    read: Callable[[str], Annotated]
    digest: str


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
            "image. If they are pixels of the stored images, say so: --pixels."
        )


def file_digest(path: Path) -> str:
    """Hash a file; lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(root: Path, files: Iterable[Path]) -> str:
    """Hash files with their paths below a folder; lower-case hex."""
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.relative_to(root).as_posix()}\0{file_digest(path)}\n".encode())
    return whole.hexdigest()
