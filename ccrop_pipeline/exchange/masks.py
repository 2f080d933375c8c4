"""Masks, of which the bounding boxes count: PNG files, and the segmentations of COCO and SAM."""

import json
import warnings
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.errors import CcropError, reading, shown
from ccrop_pipeline.exchange.annotations import Annotated, Annotations, files_below, folder_digest

_VOID: Final = 255  # VOC's borders and whatever it does not judge
_NEEDED: Final = (
    "It needs the masks of one image, a list or under annotations, each with a segmentation of "
    "size [height, width] and counts."
)


def read_masks(folder: str | Path) -> Annotations:
    """Find the PNG and JSON files in a folder at any depth; each is decoded when its image comes.

    A PNG with a palette has an object for each index but 0 (VOC, DAVIS); any other is one object.
    A JSON file has the masks of one image as SAM writes them.

    Raises:
        CcropError: If there is none.
    """
    folder = local_path(folder)
    files = files_below(folder, "*.png", "*.json")
    if not files:
        raise CcropError(f"{folder} holds no masks *.png or *.json. Check the path.")
    paths = {_name(path.relative_to(folder)): path for path in files}
    return Annotations("masks", list(paths), partial(_read, paths), folder_digest(folder, files))


def _name(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".json" else path).as_posix()


def _read(paths: dict[str, Path], name: str) -> Annotated:
    path = paths[name]
    return (_read_json if path.suffix == ".json" else _read_png)(path)


def _read_png(path: Path) -> Annotated:
    with (
        reading(path, "cannot be decoded as a mask", "A mask is a PNG."),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Whatever a file says that it is: some formats start other programs.
        with Image.open(path, formats=("PNG",)) as mask:
            # The numbers of a palette's colours, and grey of any depth, are kept as they are.
            pixels = np.asarray(mask)
            mode = mask.mode
    if mode in ("LA", "RGBA"):  # the last channel is transparency
        pixels = pixels[..., :-1]
    if mode == "P":
        numbers = np.unique(pixels[pixels != 0])
        objects = numbers[numbers != _VOID] if len(numbers) > 1 else numbers
        boxes = [_box(pixels == number) for number in objects]
    else:
        boxes = [_box(pixels != 0 if pixels.ndim == 2 else (pixels != 0).any(axis=-1))]
    height, width = pixels.shape[:2]
    return Annotated(np.concatenate([np.empty((0, 4)), *boxes]), (width, height))


def _box(content: NDArray[np.bool_]) -> NDArray[np.float64]:
    columns, rows = (np.flatnonzero(content.any(axis=axis)) for axis in (0, 1))
    if not len(rows):
        return np.empty((0, 4))
    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return np.array([edges], np.float64)


def _read_json(path: Path) -> Annotated:
    """Read the masks of one image: a list (`amg.py`), or a dictionary of SA-1B.

    Both are described in the README and scripts of github.com/facebookresearch/segment-anything.
    Its `bbox` ends at the last pixel and not behind it, hence the mask itself is read.
    """
    with reading(path, "is no file of masks", _NEEDED):
        data = json.loads(path.read_bytes())
        if isinstance(data, dict) and "images" in data:
            raise ValueError("it lists several images: read it as `coco`")
        masks = data["annotations"] if isinstance(data, dict) else data
        if not isinstance(masks, list):
            raise ValueError(f"masks are {shown(masks)}")
        frames = {rle_size(mask["segmentation"]) for mask in masks}
        if len(frames) > 1:
            raise ValueError(f"its masks have the sizes {shown(sorted(frames))}")
        boxes = [segmentation_box(mask["segmentation"]) for mask in masks]
        kept = [row for row, box in enumerate(boxes) if box is not None]
        edges = np.array([boxes[row] for row in kept], np.float64).reshape(-1, 4)
        scores = np.array([score_of(masks[row]) for row in kept], np.float64)
    return Annotated(edges, frames.pop() if frames else "stored", scores)


def score_of(entry: dict[str, Any]) -> float:
    """Return the `score` of a detection or the `predicted_iou` of a mask; NaN without either."""
    score = entry.get("score", entry.get("predicted_iou"))
    if score is None:
        return np.nan
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise ValueError(f"a score is {shown(score)}")
    return float(score)


def rle_size(segmentation: Any) -> tuple[int, int]:
    """Return width and height of a run-length encoded mask."""
    height, width = segmentation["size"]
    if not all(type(side) is int and side >= 1 for side in (width, height)):
        raise ValueError(f"a segmentation has the size {shown([height, width])}")
    return width, height


def segmentation_box(segmentation: Any) -> list[float] | None:
    """Return the box of a COCO segmentation in pixels; None for a mask without content.

    Args:
        segmentation: Polygons `[[x, y, x, y, ...], ...]`, or run lengths: a dictionary of `size`
            and `counts`, numbers or compressed text.

    Returns:
        `[x_min, y_min, x_max, y_max]`, half-open.
    """
    if isinstance(segmentation, dict):
        return _rle_box(segmentation)
    points = list(chain.from_iterable(segmentation))
    if len(points) < 2 or len(points) % 2:
        raise ValueError(f"a segmentation is {shown(segmentation)}")
    corners = np.array(points, np.float64).reshape(-1, 2)
    return [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]


def _rle_box(segmentation: dict[str, Any]) -> list[float] | None:
    # Runs of background and content by turns, down the columns, from the left one on.
    width, height = rle_size(segmentation)
    counts = segmentation["counts"]
    runs = np.array(_uncompressed(counts) if isinstance(counts, str) else counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or int(runs.sum()) != width * height:
        raise ValueError(f"counts {shown(counts)} do not cover {width} by {height} pixels")
    ends = np.cumsum(runs)
    first, last = (ends - runs)[1::2], ends[1::2] - 1
    first, last = first[first <= last], last[first <= last]
    if not len(first):
        return None
    left, right = first // height, last // height
    across = left < right  # then both the last row and the first are in the run
    top, bottom = np.where(across, 0, first % height), np.where(across, height - 1, last % height)
    edges = [left.min(), top.min(), right.max() + 1, bottom.max() + 1]
    return [float(edge) for edge in edges]


def _uncompressed(text: str) -> list[int]:
    """Read run lengths as `rleToString` of cocoapi's `maskApi.c` writes them.

    Five bits a character, the lowest first; a sixth says that the number goes on. From the fourth
    number on, what is written is the difference to the last but one.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"{character!r} among the counts")
        number |= (code & 31) << shift
        shift += 5
        if shift > 60:
            raise ValueError(f"counts {shown(text)} have a number without end")
        if not code & 32:
            number -= (code & 16) << (shift - 4)  # the highest bit is the sign
            counts.append(number + counts[-2] if len(counts) > 2 else number)
            number = shift = 0
    if shift:
        raise ValueError(f"counts {shown(text)} are cut off")
    return counts
