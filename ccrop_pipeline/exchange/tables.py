"""Boxes from tables: CSV, one box a line, and NumPy archives, each with the keys of the images."""

import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
from numpy.typing import NDArray

from ccrop_pipeline.base.files import sha256_of
from ccrop_pipeline.boxset import OK, STATUSES
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange.annotations import (
    Annotated,
    Annotations,
    Frame,
    expect_shares,
    grouped,
)

EDGES: Final = ("x_min", "y_min", "x_max", "y_max")
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
    path = Path(path)
    texts = dict.fromkeys((*_KEYS, "status"), pa.string())
    options = pc.ConvertOptions(column_types=texts | dict.fromkeys(EDGES, pa.float64()))
    try:
        table = pc.read_csv(path.absolute(), convert_options=options)
    except pa.ArrowException as error:
        raise CcropError(f"{path} is no readable table: {error}") from error
    key = next((name for name in _KEYS if name in table.column_names), None)
    if key is None or not set(EDGES) <= set(table.column_names):
        raise CcropError(
            f"{path} has the columns {', '.join(table.column_names)}. Needed are "
            f"{', '.join(EDGES)} and one of {', '.join(_KEYS)}, in a header line."
        )
    columns = [table[edge].to_numpy() for edge in EDGES]
    boxes = np.stack(columns, axis=1).astype(np.float64)
    if "status" in table.column_names:
        boxes[table["status"].to_numpy() != STATUSES[OK]] = np.nan
    if not pixels:
        expect_shares(boxes, path)
    return _annotations(grouped(table[key].to_pylist(), boxes), "csv", path, pixels=pixels)


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
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        found = _table(arrays) if {"keys", "boxes"} <= set(arrays) else _by_key(arrays)
    # np.load raises nearly anything for a file of another kind.
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise CcropError(
            f"{path} is no archive of boxes ({error}). It needs the arrays keys (n,) of text and "
            "boxes (n, 4), or for each image an array (k, 4) of its key."
        ) from error
    if not pixels:
        for boxes in found.values():
            expect_shares(boxes, path)
    return _annotations(found, "npz", path, pixels=pixels)


def _annotations(
    found: dict[str, NDArray[np.float64]], kind: str, path: Path, *, pixels: bool
) -> Annotations:
    frame: Frame = "stored" if pixels else "shares"
    if pixels:
        kind += " in pixels"
    return Annotations(kind, list(found), lambda n: Annotated(found[n], frame), sha256_of(path))


def _table(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    keys, boxes = arrays["keys"], arrays["boxes"].astype(np.float64)
    if keys.ndim != 1 or keys.dtype.kind != "U" or boxes.shape != (len(keys), 4):
        raise ValueError(f"keys are {keys.dtype} {keys.shape} and boxes {boxes.shape}")
    if "status" in arrays:
        boxes[arrays["status"] != STATUSES[OK]] = np.nan
    return grouped(keys.tolist(), boxes)


def _by_key(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    for name, array in arrays.items():
        if array.shape != (4,) and array.shape[1:] != (4,):
            raise ValueError(f"the array {name!r} is {array.shape}")
    return {name: array.astype(np.float64).reshape(-1, 4) for name, array in arrays.items()}
