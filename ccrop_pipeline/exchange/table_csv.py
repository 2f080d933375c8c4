"""CSV: one box a line, with the key of its image."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from ccrop_pipeline.boxset import OK, STATUSES, BoxSet, BoxTable
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange.annotations import (
    Annotated,
    Annotations,
    expect_shares,
    file_digest,
    grouped,
)
from ccrop_pipeline.exchange.rows import boxes_of_rows

EDGES: Final = ("x_min", "y_min", "x_max", "y_max")
_KEYS: Final = ("key", "file_name", "filename", "image", "path")
_SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        *((edge, pa.float64()) for edge in EDGES),
        ("width", pa.uint32()),
        ("height", pa.uint32()),
        ("status", pa.string()),
    ]
)


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


def write_csv(box_set: BoxSet, path: Path) -> None:
    """Write a line a box, normalised, with the size of its image; each value comes back exactly."""
    with pc.CSVWriter(path.absolute(), _SCHEMA) as writer:
        for _, table in box_set.tables(heatmaps=False):
            writer.write_table(_lines(table))


def _lines(table: BoxTable) -> Any:
    rows, boxes = boxes_of_rows(table)
    # As doubles: their text stands for the same float32 on every reader, however it rounds.
    edges = boxes.astype(np.float64)
    columns = [
        pa.array([table.keys[row] for row in rows.tolist()], pa.string()),
        *(pa.array(edges[:, i]) for i in range(4)),
        pa.array(table.sizes[rows, 0]),
        pa.array(table.sizes[rows, 1]),
        pa.array([STATUSES[code] for code in table.status[rows].tolist()], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)
