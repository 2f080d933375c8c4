"""Boxes from tables: CSV, a box or point a line, and NumPy archives, each with keys of images.

The CSV of Open Images is described at
https://storage.googleapis.com/openimages/web/download_v7.html.
"""

import csv
import math
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
from numpy.typing import NDArray

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.boxset import OK, STATUSES, BoxSet
from ccrop_pipeline.errors import CcropError, SettingError, reading
from ccrop_pipeline.exchange.annotations import (
    CONTENT,
    Annotated,
    Annotations,
    Frame,
    boxes_by_image,
    by_stem,
    expect_shares,
    grouped,
    of_file,
)

EDGES: Final = ("x_min", "y_min", "x_max", "y_max")
_SMALL: Final = 1 << 28  # bytes of which no archive is asked how it came by them
_COLUMNS: Final = (
    "It needs a header line with x_min, y_min, x_max, y_max, or x, y and perhaps radius, and one "
    "of key, file_name, filename, image, path."
)
_ARRAYS: Final = (
    "It needs the arrays keys (n,) of text and boxes (n, 4), or for each image an array (k, 4) of "
    "its key."
)
_PIXELS: Final = "If they are pixels of the stored images, set `pixels`."
_POINT: Final = ("x", "y", "radius")
_KEYS: Final = ("key", "file_name", "filename", "image", "path")
# In the order of the columns of Open Images, in which both edges of an axis stand together.
_OPEN_EDGES: Final = ("XMin", "XMax", "YMin", "YMax")
_OPEN_COLUMNS: Final = ["ImageID", "Source", "LabelName", "Confidence"]
_OPEN_FLAGS: Final = ["IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"]
_OPEN_NEEDED: Final = (
    "It needs a header line with ImageID, XMin, XMax, YMin and YMax, and may have Confidence and "
    "IsGroupOf."
)


def read_csv(path: str | Path, *, pixels: bool = False, radius: float | None = None) -> Annotations:
    """Read boxes, or points with a radius, from a table with a header.

    Columns are `key` (or `file_name`, `filename`, `image`, `path`) and `x_min`, `y_min`, `x_max`,
    `y_max`, or `x`, `y` and `radius`; perhaps `score`. A line without numbers, or with another
    `status` than `ok`, says that the image has no box. Other columns do not count.

    Args:
        path: The file.
        pixels: Whether numbers are pixels of the stored image, and not shares of its sides.
        radius: Of points that have none of their own, measured as x and y are.

    Raises:
        SettingError: If `radius` is given for boxes, or missing for points.
        CcropError: If it is no such table, or the numbers are pixels and that was not said.
    """
    path = local_path(path)
    names = (*EDGES, *_POINT, "score")
    types = dict.fromkeys((*_KEYS, "status"), pa.string()) | dict.fromkeys(names, pa.float64())
    with reading(path, "is no table of boxes", _COLUMNS):
        table = pc.read_csv(path.absolute(), convert_options=pc.ConvertOptions(column_types=types))
        columns = set(table.column_names)
        key = next((name for name in _KEYS if name in columns), None)
        points, edges = {"x", "y"} <= columns, set(EDGES) <= columns
        if key is None or points == edges:
            raise ValueError(f"its columns are {', '.join(table.column_names)}")
        if table[key].null_count:
            raise ValueError(f"{table[key].null_count} lines have no {key}")
        numbers = {name: table[name].to_numpy() for name in names if name in columns}
    if radius is not None and edges:
        raise SettingError(f"{path} has boxes and no points x, y: leave out `radius`.")
    boxes = np.stack([numbers[edge] for edge in EDGES], axis=1) if edges else None
    if boxes is None:
        boxes = _around_points(path, numbers, radius, pixels=pixels)
    elif not pixels:
        expect_shares(boxes, path, _PIXELS)
    if "status" in columns:
        boxes[table["status"].to_numpy() != STATUSES[OK]] = np.nan
    found = grouped(
        table[key].to_pylist(), boxes, _frame(pixels=pixels), scores=numbers.get("score")
    )
    kind = "csv" if edges else "csv of points" if radius is None else f"csv of points, {radius:g}"
    return of_file(f"{kind} in pixels" if pixels else kind, found, path)


def _around_points(
    path: Path, numbers: dict[str, NDArray[np.float64]], radius: float | None, *, pixels: bool
) -> NDArray[np.float64]:
    """Return the box that reaches from each point by its radius to all sides."""
    x, y = numbers["x"], numbers["y"]
    own = numbers.get("radius", np.full(len(x), np.nan))
    reach = np.where(np.isnan(own), np.nan if radius is None else radius, own)
    lacking = int((np.isnan(reach) & ~np.isnan(x + y)).sum())
    if lacking:
        raise SettingError(
            f"{path} has {lacking} points without a radius. Set `radius`, or add a column radius."
        )
    if (reach <= 0).any():
        raise CcropError(f"{path} has the radius {np.nanmin(reach):g}. It must be above 0.")
    if not pixels:
        expect_shares(np.stack([x, y, reach]), path, _PIXELS)
    return np.stack([x - reach, y - reach, x + reach, y + reach], axis=1)


def read_open_images(path: str | Path) -> Annotations:
    """Read a table of boxes of Open Images; boxes around groups are left out, as COCO's crowds.

    Raises:
        CcropError: If it is no such table, or the numbers are pixels.
    """
    path = local_path(path)
    numbers = (*_OPEN_EDGES, "Confidence", "IsGroupOf")
    types = dict.fromkeys(numbers, pa.float64()) | {"ImageID": pa.string()}
    with reading(path, "is no table of boxes of Open Images", _OPEN_NEEDED):
        table = pc.read_csv(path.absolute(), convert_options=pc.ConvertOptions(column_types=types))
        missing = {"ImageID", *_OPEN_EDGES}.difference(table.column_names)
        if missing:
            raise ValueError(f"it has no {min(missing)}")
        columns = {name: table[name].to_numpy() for name in numbers if name in table.column_names}
    boxes = np.stack([columns[name] for name in ("XMin", "YMin", "XMax", "YMax")], axis=1)
    expect_shares(boxes, path, "Divide them by width and height of the image.")
    boxes[columns.get("IsGroupOf", np.zeros(len(boxes))) == 1] = np.nan
    names = table["ImageID"].to_pylist()
    found = grouped(names, boxes, "shares", scores=columns.get("Confidence"))
    return of_file("open-images", found, path)


def write_open_images(box_set: BoxSet, path: Path, suffix: str, *, turned: bool) -> None:
    """Write a line a box, labelled `content`; flags are -1, which says that they are not known.

    Args:
        box_set: The boxes.
        path: File to write.
        suffix: Put behind keys without an extension to make the name of its image; its ImageID has
            none.
        turned: Whether boxes are for images that are turned upright.

    Raises:
        CcropError: If two images have one name without their extensions.
    """
    images = by_stem(boxes_by_image(box_set, turned=turned), suffix)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_OPEN_COLUMNS, *_OPEN_EDGES, *_OPEN_FLAGS])
        for name, image in images:
            for x_min, y_min, x_max, y_max in image.boxes:
                edges = [x_min, x_max, y_min, y_max]
                writer.writerow([name, "ccrop", CONTENT, 1, *edges, *[-1] * len(_OPEN_FLAGS)])


def read_npz(path: str | Path, *, pixels: bool = False) -> Annotations:
    """Read boxes from an archive of either layout.

    Either `keys`, text (n,), and `boxes`, numbers (n, 4), a key as often as it has boxes, and
    perhaps `scores`, numbers (n,), and `status`, text (n,), where anything but `ok` says that the
    image has no box. Or an array for each image, named by its key, of shape (k, 4) or (4,).

    Args:
        path: The file.
        pixels: Whether edges are pixels of the stored image, and not shares of it.

    Raises:
        CcropError: If it is no such archive, or the numbers are pixels and that was not said.
    """
    path = local_path(path)
    frame = _frame(pixels=pixels)
    with reading(path, "is no archive of boxes", _ARRAYS):
        arrays = _read_arrays(path)
        table = {"keys", "boxes"} <= set(arrays)
        found = _table(arrays, frame) if table else _by_key(arrays, frame)
    if not pixels:
        for annotated in found.values():
            expect_shares(annotated.boxes, path, _PIXELS)
    return of_file("npz in pixels" if pixels else "npz", found, path)


def _frame(*, pixels: bool) -> Frame:
    return "stored" if pixels else "shares"


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an archive; what a header claims is held against what is there before it is believed."""
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        size, most = sum(member.file_size for member in members), path.stat().st_size * 100
        if size > max(most, _SMALL):
            raise ValueError(f"unpacked it would be {size:,} bytes")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"it has {name!r} twice")
            with archive.open(member) as file:
                _expect_plain(name, file, member.file_size)
            with archive.open(member) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def _expect_plain(name: str, file: IO[bytes], size: int) -> None:
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else (np.lib.format.read_array_header_2_0)
    )
    shape, _, dtype = read(file)
    if dtype.kind not in "biufUS":
        raise ValueError(f"{name!r} holds {dtype}, neither numbers nor text; no object is loaded")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{name!r} claims the shape {shape}, which does not fit into the file")


def _table(arrays: dict[str, NDArray[Any]], frame: Frame) -> dict[str, Annotated]:
    keys, boxes = arrays["keys"], _numbers("boxes", arrays["boxes"])
    if keys.ndim != 1 or keys.dtype.kind != "U" or boxes.shape != (len(keys), 4):
        raise ValueError(f"keys are {keys.dtype} {keys.shape} and boxes {boxes.shape}")
    if "status" in arrays:
        status = arrays["status"]
        if status.shape != keys.shape or status.dtype.kind != "U":
            raise ValueError(f"status is {status.dtype} {status.shape} and keys {keys.shape}")
        boxes[status != STATUSES[OK]] = np.nan
    scores = _numbers("scores", arrays["scores"]) if "scores" in arrays else None
    if scores is not None and scores.shape != keys.shape:
        raise ValueError(f"scores are {scores.shape} and keys {keys.shape}")
    return grouped(keys.tolist(), boxes, frame, scores=scores)


def _by_key(arrays: dict[str, NDArray[Any]], frame: Frame) -> dict[str, Annotated]:
    for name, array in arrays.items():
        if array.shape != (4,) and array.shape[1:] != (4,):
            raise ValueError(f"the array {name!r} is {array.shape}")
    return {
        name: Annotated(_numbers(name, array).reshape(-1, 4), frame)
        for name, array in arrays.items()
    }


def _numbers(name: str, array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype.kind not in "iuf":
        raise ValueError(f"the array {name!r} is {array.dtype}, no numbers")
    return array.astype(np.float64)
