"""Boxes from tables: CSV, one box a line, and NumPy archives, each with the keys of the images."""

import math
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
from numpy.typing import NDArray

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.files import sha256_of
from ccrop_pipeline.boxset import OK, STATUSES
from ccrop_pipeline.errors import CcropError, reading
from ccrop_pipeline.exchange.annotations import (
    Annotated,
    Annotations,
    Frame,
    expect_shares,
    grouped,
)

EDGES: Final = ("x_min", "y_min", "x_max", "y_max")
_SMALL: Final = 1 << 28  # bytes of which no archive is asked how it came by them
_COLUMNS: Final = (
    "It needs a header line with x_min, y_min, x_max, y_max and one of key, file_name, filename, "
    "image, path."
)
_ARRAYS: Final = (
    "It needs the arrays keys (n,) of text and boxes (n, 4), or for each image an array (k, 4) of "
    "its key."
)
_KEYS: Final = ("key", "file_name", "filename", "image", "path")


def read_csv(path: str | Path, *, pixels: bool = False) -> Annotations:
    """Read boxes from a table with a header.

    Columns are `key` (or `file_name`, `filename`, `image`, `path`) and `x_min`, `y_min`, `x_max`,
    `y_max`. A line without numbers, or with another `status` than `ok`, says that the image has
    no box. Other columns do not count.

    Args:
        path: The file.
        pixels: Whether edges are pixels of the stored image, and not shares of it.

    Raises:
        CcropError: If it is no such table, or the numbers are pixels and that was not said.
    """
    path = local_path(path)
    texts = dict.fromkeys((*_KEYS, "status"), pa.string())
    options = pc.ConvertOptions(column_types=texts | dict.fromkeys(EDGES, pa.float64()))
    with reading(path, "is no table of boxes", _COLUMNS):
        table = pc.read_csv(path.absolute(), convert_options=options)
        key = next((name for name in _KEYS if name in table.column_names), None)
        if key is None or not set(EDGES) <= set(table.column_names):
            raise ValueError(f"its columns are {', '.join(table.column_names)}")
        if table[key].null_count:
            raise ValueError(f"{table[key].null_count} lines have no {key}")
        boxes = np.stack([table[edge].to_numpy() for edge in EDGES], axis=1).astype(np.float64)
        if "status" in table.column_names:
            boxes[table["status"].to_numpy() != STATUSES[OK]] = np.nan
        found = grouped(table[key].to_pylist(), boxes)
    if not pixels:
        expect_shares(boxes, path)
    return _annotations(found, "csv", path, pixels=pixels)


def read_npz(path: str | Path, *, pixels: bool = False) -> Annotations:
    """Read boxes from an archive of either layout.

    Either `keys`, text (n,), and `boxes`, numbers (n, 4), a key as often as it has boxes, and
    perhaps `status`, text (n,), where anything but `ok` says that the image has no box. Or an
    array for each image, named by its key, of shape (k, 4) or (4,).

    Args:
        path: The file.
        pixels: Whether edges are pixels of the stored image, and not shares of it.

    Raises:
        CcropError: If it is no such archive, or the numbers are pixels and that was not said.
    """
    path = local_path(path)
    with reading(path, "is no archive of boxes", _ARRAYS):
        arrays = _read_arrays(path)
        found = _table(arrays) if {"keys", "boxes"} <= set(arrays) else _by_key(arrays)
    if not pixels:
        for boxes in found.values():
            expect_shares(boxes, path)
    return _annotations(found, "npz", path, pixels=pixels)


def _annotations(
    found: dict[str, NDArray[np.float64]], kind: str, path: Path, *, pixels: bool
) -> Annotations:
    if not found:
        raise CcropError(f"{path} names no image. Give the file that has the boxes.")
    frame: Frame = "stored" if pixels else "shares"
    if pixels:
        kind += " in pixels"
    return Annotations(kind, list(found), lambda n: Annotated(found[n], frame), sha256_of(path))


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


def _table(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    keys, boxes = arrays["keys"], _numbers("boxes", arrays["boxes"])
    if keys.ndim != 1 or keys.dtype.kind != "U" or boxes.shape != (len(keys), 4):
        raise ValueError(f"keys are {keys.dtype} {keys.shape} and boxes {boxes.shape}")
    if "status" in arrays:
        status = arrays["status"]
        if status.shape != keys.shape or status.dtype.kind != "U":
            raise ValueError(f"status is {status.dtype} {status.shape} and keys {keys.shape}")
        boxes[status != STATUSES[OK]] = np.nan
    return grouped(keys.tolist(), boxes)


def _by_key(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    for name, array in arrays.items():
        if array.shape != (4,) and array.shape[1:] != (4,):
            raise ValueError(f"the array {name!r} is {array.shape}")
    return {name: _numbers(name, array).reshape(-1, 4) for name, array in arrays.items()}


def _numbers(name: str, array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype.kind not in "iuf":
        raise ValueError(f"the array {name!r} is {array.dtype}, no numbers")
    return array.astype(np.float64)
