"""CSV: one box a line, with the key of its image."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from ccrop_pipeline.boxset import OK, STATUSES
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange.annotations import (
    Annotated,
    Annotations,
    expect_shares,
    file_digest,
    grouped,
)

EDGES: Final = ("x_min", "y_min", "x_max", "y_max")
_KEYS: Final = ("key", "file_name", "filename", "image", "path")


def read_csv(path: Path, pixels: bool) -> Annotations:
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
    return _annotations(table[key].to_pylist(), boxes, "csv", path, pixels)


def _annotations(names: list[str], boxes: Any, kind: str, path: Path, pixels: bool) -> Annotations:
    found = grouped(names, boxes)
    digest = file_digest(path)
    if pixels:
        return Annotations(
            f"{kind} in pixels", list(found), lambda n: Annotated(found[n], "stored"), digest
        )
    return Annotations(kind, list(found), lambda n: Annotated(found[n], "shares"), digest)
