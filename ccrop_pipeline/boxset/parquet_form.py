"""The Parquet form of a shard."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ccrop_pipeline.boxset.boxes import Choices
from ccrop_pipeline.boxset.provenance import Entries, Provenance
from ccrop_pipeline.boxset.rules import Problem
from ccrop_pipeline.boxset.table import STATUSES, BoxTable
from ccrop_pipeline.errors import counted

MAX_ROW_GROUP = 65_536
_EDGES = ("x_min", "y_min", "x_max", "y_max")
_COLUMNS = {
    "key": pa.string(),
    **dict.fromkeys(_EDGES, pa.float32()),
    "width": pa.uint32(),
    "height": pa.uint32(),
    "orientation": pa.uint8(),
    "status": pa.dictionary(pa.int8(), pa.string()),
    "image_hash": pa.uint64(),
}
# What pyarrow raises for bytes that make no sense.
_UNREADABLE = (OSError, pa.ArrowException, ValueError, OverflowError, LookupError, MemoryError)
_SMALL, _SHRINK = 1 << 26, 1000
_OPTIONAL = {"heatmap": pa.float16(), "choices": pa.float32()}  # lists of lists of these


def write(path: Path, table: BoxTable, provenance: Provenance) -> None:
    """Write a table; equal tables give equal bytes with one version of pyarrow."""
    types = dict(_COLUMNS)
    if table.heatmap_shape is not None:
        height, width = table.heatmap_shape
        types["heatmap"] = pa.list_(pa.list_(pa.float16(), width), height)
    if table.choices is not None:
        types["choices"] = pa.list_(pa.list_(pa.float32(), 4))
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])
    arrays = dict(_arrays(table))
    # Equal groups, so that none falls under the 10,000 rows below which reading slows down.
    groups = -(-len(table) // MAX_ROW_GROUP)
    schema = schema.with_metadata(provenance.entries())
    with pq.ParquetWriter(
        path.absolute(),  # a relative one with a colon in it would be taken for an address
        schema,
        compression="zstd",
        # Hashes and heatmaps do not repeat: a dictionary would only be tried and dropped.
        use_dictionary=[*_EDGES, "width", "height", "orientation", "status"],
    ) as writer:
        # Hugging Face datasets refuse a row group without rows.
        if len(table):
            rows = pa.table([arrays[name] for name in types], schema=schema)
            writer.write_table(rows, row_group_size=-(-len(table) // groups))


def _arrays(table: BoxTable) -> Iterator[tuple[str, Any]]:
    yield "key", pa.array(table.keys, pa.string())
    for index, name in enumerate(_EDGES):
        yield name, pa.array(np.ascontiguousarray(table.boxes[:, index]))
    for index, name in enumerate(("width", "height")):
        yield name, pa.array(np.ascontiguousarray(table.sizes[:, index]))
    yield "orientation", pa.array(table.orientation)
    codes = pa.array(table.status.astype(np.int8))
    yield "status", pa.DictionaryArray.from_arrays(codes, pa.array(STATUSES))
    yield "image_hash", pa.array(table.image_hash)
    if table.heatmaps is not None:
        _, height, width = table.heatmaps.shape
        cells = pa.array(np.ascontiguousarray(table.heatmaps).reshape(-1))
        lines = pa.FixedSizeListArray.from_arrays(cells, width)
        yield "heatmap", pa.FixedSizeListArray.from_arrays(lines, height)
    if table.choices is not None:
        edges = pa.array(np.ascontiguousarray(table.choices.boxes).reshape(-1))
        boxes = pa.FixedSizeListArray.from_arrays(edges, 4)
        starts = pa.array(table.choices.starts.astype(np.int32))
        yield "choices", pa.ListArray.from_arrays(starts, boxes)


def entries(path: Path, problems: list[Problem]) -> Entries | None:
    """Read the texts of the footer by name; rule B011."""
    try:
        return _texts(pq.read_metadata(path.absolute()))
    except _UNREADABLE as error:
        problems.append(Problem("B011", path.name, f"not a readable Parquet file: {_line(error)}"))
    return None


def _texts(footer: Any) -> Entries:
    found = footer.metadata or {}
    return {str(name, "utf-8"): str(text, "utf-8") for name, text in found.items()}


def load(
    path: Path, problems: list[Problem], *, heatmaps: bool = True
) -> tuple[Entries | None, BoxTable | None]:
    """Read entries and table; rules B011, B014, B015, B019 and, within the shard, B024."""
    known = {*_COLUMNS, *_OPTIONAL} if heatmaps else {*_COLUMNS, "choices"}
    try:
        footer = pq.read_metadata(path.absolute())
        _refuse_more_than_the_bytes_can_hold(footer, path.stat().st_size)
        # Dictionaries stay as they are: one long text could otherwise become that of every row.
        texts, kept = _texts(footer), _texts_in_dictionaries(footer)
        with pq.ParquetFile(path.absolute(), metadata=footer, read_dictionary=kept) as file:
            wanted = [name for name in file.schema_arrow.names if name in known]
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            # One thread: shards are small, and readers run one a worker.
            data = file.read(columns=wanted, use_threads=False)
            data.validate(full=True)
    except _UNREADABLE as error:
        problems.append(Problem("B011", path.name, f"not a readable Parquet file: {_line(error)}"))
        return None, None
    if max(groups, default=0) > MAX_ROW_GROUP:
        problems.append(
            Problem("B015", path.name, f"a row group has {counted(max(groups), 'row')}")
        )
    wrong = list(_wrong_columns(data))
    problems += [Problem("B014", path.name, message) for message in wrong]
    return texts, None if wrong else _table(data, path.name, problems)


def _texts_in_dictionaries(footer: Any) -> list[str]:
    return sorted(
        {
            column.path_in_schema
            for group in map(footer.row_group, range(footer.num_row_groups))
            for column in map(group.column, range(group.num_columns))
            if column.path_in_schema in ("key", "status") and "DICTIONARY" in str(column.encodings)
        }
    )


def _refuse_more_than_the_bytes_can_hold(footer: Any, size: int) -> None:
    """Refuse a few bytes that would unpack into gigabytes.

    Keys are unique and hashes of images do not repeat, so that a row takes a byte at the very
    least; whole columns of equal values may shrink to a thousandth.
    """
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    rows = sum(group.num_rows for group in groups)
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    unpacked = sum(max(c.total_uncompressed_size, 2 * c.num_values) for c in columns)
    if max(rows, footer.num_rows) > size:
        raise pa.ArrowInvalid(f"{counted(rows, 'row')} in {size} bytes are no rows of a box set")
    if unpacked > _SMALL + _SHRINK * size:
        raise pa.ArrowInvalid(f"its {size} bytes would unpack into {unpacked}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _wrong_columns(data: Any) -> Iterator[str]:
    if missing := set(_COLUMNS).difference(data.column_names):
        yield f"there is no column {' or '.join(sorted(missing))}"
        return
    if len(set(data.column_names)) < data.num_columns:
        yield f"a column occurs twice in {data.column_names}"
        return
    for name in data.column_names:
        kind = data.schema.field(name).type
        if not _fits(name, kind):
            yield f"column {name} is {kind}"
        elif data[name].null_count:
            yield f"column {name} has {data[name].null_count} missing values"


def _fits(name: str, kind: Any) -> bool:
    # Writers other than this one leave no Arrow schema behind, and then text comes back
    # without its dictionary and lists without their fixed size.
    if name in ("key", "status"):
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    if name in _OPTIONAL:
        return _is_list(kind) and _is_list(kind.value_type) and _cell(kind) == _OPTIONAL[name]
    return bool(kind == _COLUMNS[name])


def _is_list(kind: Any) -> bool:
    is_any = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_one(kind) for is_one in is_any)


def _cell(kind: Any) -> Any:
    return kind.value_type.value_type


def _table(data: Any, where: str, problems: list[Problem]) -> BoxTable | None:
    keys = _keys(data["key"], where, problems)
    if keys is None:
        return None
    codes = pa.chunked_array(map(_status, data["status"].chunks), pa.int32())
    for row in np.flatnonzero(codes.is_null().to_numpy()).tolist():
        message = f"the status is {data['status'][row].as_py()!r:.80}"
        problems.append(Problem("B019", f"{where} row {row}", message))
    return BoxTable(
        keys=keys,
        boxes=np.stack([data[name].to_numpy() for name in _EDGES], axis=1),
        sizes=np.stack([data[name].to_numpy() for name in ("width", "height")], axis=1),
        orientation=data["orientation"].to_numpy(),
        status=codes.fill_null(0).to_numpy().astype(np.uint8),
        image_hash=data["image_hash"].to_numpy(),
        heatmaps=_grid(data["heatmap"], where, problems)
        if "heatmap" in data.schema.names
        else None,
        choices=_choices(data["choices"], where, problems)
        if "choices" in data.schema.names
        else None,
    )


def _keys(column: Any, where: str, problems: list[Problem]) -> list[str] | None:
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        indices = array.indices.to_numpy()
        first, counts = np.unique(indices, return_index=True, return_counts=True)[1:]
        if (counts > 1).any():
            row = int(first[counts > 1][0])
            message = f"the key {array[row].as_py()!r:.80} occurs twice in this shard"
            problems.append(Problem("B018", f"{where} row {row}", message))
            return None
    keys: list[str] = array.to_pylist()
    return keys


def _status(chunk: Any) -> Any:
    if not pa.types.is_dictionary(chunk.type):
        return pc.index_in(chunk, pa.array(STATUSES, chunk.type))
    known = pc.index_in(chunk.dictionary, pa.array(STATUSES, chunk.type.value_type))
    return known.take(chunk.indices)


def _choices(column: Any, where: str, problems: list[Problem]) -> Choices | None:
    array = column.combine_chunks()
    counts = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    boxes = array.flatten()
    lengths = pc.unique(pc.list_value_length(boxes)).to_pylist()
    edges = boxes.flatten()
    if lengths not in ([], [4]) or boxes.null_count or edges.null_count:
        message = f"column choices has missing values, or boxes of {lengths} edges and not 4"
        problems.append(Problem("B014", where, message))
        return None
    cells = edges.to_numpy(zero_copy_only=False).reshape(-1, 4)
    return Choices(cells, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def _grid(column: Any, where: str, problems: list[Problem]) -> NDArray[np.float16] | None:
    shape = [len(column)]
    array = column.combine_chunks()
    for _ in range(2):
        if pa.types.is_fixed_size_list(array.type):
            lengths = [array.type.list_size]
        else:
            lengths = pc.unique(pc.list_value_length(array)).to_pylist() or [1]
        array = array.flatten()
        shape += lengths[:1]
        if len(lengths) != 1 or not lengths[0]:
            problems.append(Problem("B024", where, f"heatmaps have sides of {lengths} cells"))
            return None
    if array.null_count:
        problems.append(Problem("B014", where, "column heatmap has missing cells"))
        return None
    cells: NDArray[np.float16] = array.to_numpy(zero_copy_only=False)
    return cells.reshape(shape)
