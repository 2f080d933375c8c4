"""Parquet tables in the Hugging Face image layout."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from ccrop_pipeline.errors import SourceError
from ccrop_pipeline.images.keys import Keys, numbered_shards, refuse_duplicates
from ccrop_pipeline.images.source import (
    Ignored,
    Sample,
    digest_files,
    known_label,
    part_of,
    read_classes,
)

# Encoded images hardly shrink any more.
_SMALL, _SHRINK = 1 << 26, 100
BATCH_ROWS = 256  # encoded photographs of one batch stay below some 100 MB


@dataclass(frozen=True)
class Columns:
    """Names of the columns that matter.

    Attributes:
        image: Encoded bytes, or a struct of `bytes` and maybe `path`.
        key: A column of keys, if there is one.
        label: Integers, if there are any.
    """

    image: str
    key: str | None
    label: str | None

    @property
    def needed(self) -> list[str]:
        """All names, without the missing ones."""
        return [name for name in (self.image, self.key, self.label) if name is not None]


class _Piece(NamedTuple):
    """Rows of one file that make one shard."""

    path: Path
    rows: range


@dataclass(frozen=True)
class ParquetSource:
    """Parquet files, one shard each, cut where a file has more than 65,536 rows.

    Attributes:
        location: What was opened, as given.
        paths: The files, in order.
        ignored: What is beside them.
    """

    kind: ClassVar[str] = "parquet"
    random_access: ClassVar[bool] = True
    location: str
    paths: tuple[Path, ...]
    ignored: Ignored = field(default_factory=Ignored, compare=False)

    @cached_property
    def _pieces(self) -> tuple[tuple[str, _Piece], ...]:
        return tuple(piece for path in self.paths for piece in _cut(path))

    @cached_property
    def _piece_of(self) -> dict[str, _Piece]:
        return dict(self._pieces)

    @cached_property
    def shards(self) -> tuple[str, ...]:
        """Stems of the files, numbered where a file was cut."""
        return tuple(shard for shard, _ in self._pieces)

    @property
    def classes(self) -> tuple[str, ...]:
        """Lines of `classes.txt` beside the first file."""
        return read_classes(self.paths[0].parent)

    def read(self, shard: str) -> Iterator[Sample]:
        """Yield the samples of one shard in row order.

        Raises:
            SourceError: If the file is damaged, lacks an image column, or a row has no bytes.
        """
        piece = part_of(self._piece_of, shard)
        with open_parquet(piece.path) as file:
            columns = find_columns(file.schema_arrow, piece.path)
            for batch in _batches(file, piece, columns):
                images, keys = keys_of(batch, columns, piece.path)
                labels = labels_of(batch, columns, piece.path).tolist()
                for key, image, label in zip(keys, images, labels, strict=True):
                    yield Sample(key, image.as_py(), known_label(label))

    def labels(self) -> NDArray[np.int64]:
        """Return the labels of all rows without reading images; negative where unknown."""
        found = [np.empty(0, np.int64)]
        for path in self.paths:
            with open_parquet(path) as file:
                columns = find_columns(file.schema_arrow, path)
                rows = int(file.metadata.num_rows)
                if columns.label is None:
                    found.append(np.full(rows, -1, np.int64))
                    continue
                only_labels = file.read([columns.label]).combine_chunks()
                found += [labels_of(batch, columns, path) for batch in only_labels.to_batches()]
        return np.concatenate(found)

    def fingerprint(self) -> str:
        """Return a digest of the files' names, sizes, beginnings and ends, not of all contents."""
        return digest_files(self.kind, self.paths)

    def index(self) -> "ParquetIndex":
        """Load all encoded images into memory and return random access to them.

        Raises:
            SourceError: If as `read`, and if a key occurs twice.
        """
        index = ParquetIndex(self)
        refuse_duplicates(
            index.keys,
            index.shard_of,
            self.shards,
            "give the tables a column `key`, or drop the row that repeats another.",
        )
        return index


class ParquetIndex:
    """Random access to the images of Parquet files.

    Holds all encoded images in memory, as Arrow buffers (CIFAR-10: 60 MB), because Parquet
    cannot be read by row. Forked workers share them. A pickled index leaves them behind, and
    a spawned worker loads them again on first use; for data larger than memory, pack them
    into tars.
    """

    def __init__(self, source: ParquetSource) -> None:
        self._source = source
        self._images: Any = None
        keys: list[str] = []
        labels: list[NDArray[np.int64]] = []
        sizes: list[int] = []
        chunks: list[Any] = []
        for _, piece in source._pieces:
            with open_parquet(piece.path) as file:
                columns = find_columns(file.schema_arrow, piece.path)
                sizes.append(len(piece.rows))
                room = _SMALL + _SHRINK * piece.path.stat().st_size
                for batch in _batches(file, piece, columns):
                    images, batch_keys = keys_of(batch, columns, piece.path)
                    room -= images.nbytes
                    if room < 0:
                        raise SourceError(
                            f"the images of {piece.path} unpack into more than {_SHRINK} times "
                            "its bytes: one is repeated over and over. Write each once."
                        )
                    chunks.append(images)
                    keys.extend(batch_keys)
                    labels.append(labels_of(batch, columns, piece.path))
        self.keys = Keys(keys)
        self.labels = np.concatenate([np.empty(0, np.int64), *labels])
        self.shard_of = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        self._images = _join(chunks)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def read(self, i: int) -> bytes:
        """Return the encoded bytes of image `i`."""
        if self._images is None:
            self._images = ParquetIndex(self._source)._images
        return bytes(self._images[int(i)].as_py())

    def __getstate__(self) -> dict[str, object]:
        """Leave the images behind."""
        return self.__dict__ | {"_images": None}


def open_parquet(path: Path) -> Any:
    """Open a Parquet file; `CcropError` where it is damaged or none."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(
            f"{path} cannot be read as Parquet ({error}). Fetch or write it again."
        ) from error
    rows, size = file.metadata.num_rows, path.stat().st_size
    if rows > size:  # no encoded image has less than a byte
        file.close()
        raise SourceError(
            f"{path} has {rows:,} rows in {size:,} bytes, which cannot be images. Fetch or write "
            "it again."
        )
    return file


def has_images(path: Path) -> bool:
    """Tell whether a file may hold images; one that is damaged may."""
    try:
        with open_parquet(path) as file:
            return any(_holds_images(column.type) for column in file.schema_arrow)
    except SourceError:
        return True


def _cut(path: Path) -> Iterator[tuple[str, _Piece]]:
    with open_parquet(path) as file:
        cut = numbered_shards(path.stem, int(file.metadata.num_rows))
    for name, rows in cut.items():
        yield name if len(cut) > 1 else path.stem, _Piece(path, rows)


def _batches(file: Any, piece: _Piece, columns: Columns) -> Iterator[Any]:
    """Yield record batches of exactly the rows of a piece, opening no other row group."""
    groups: list[int] = []
    first, start = 0, 0
    for group in range(file.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        if start < piece.rows.stop and stop > piece.rows.start:
            first = start if not groups else first
            groups.append(group)
        start = stop
    position = first
    try:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns.needed):
            skip = max(piece.rows.start - position, 0)
            kept = batch.slice(skip, max(piece.rows.stop - position - skip, 0))
            position += batch.num_rows
            if kept.num_rows:
                yield kept
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{piece.path} is damaged ({error}). Fetch or write it again.") from error


def find_columns(schema: Any, path: Path) -> Columns:
    """Choose the columns: by name, and the image by type where it has another name.

    Raises:
        SourceError: If no column or several could be the image, or the label or key is of a type
            that is none.
    """
    found = [c.name for c in schema if _holds_images(c.type) and c.name not in _KEYS]
    if "image" in found:
        found = ["image"]
    if len(found) != 1:
        raise SourceError(
            f"{path} has {len(found)} columns that could hold images"
            f"{' (' + ', '.join(found) + ')' if found else ''}; its columns are "
            f"{', '.join(f'{column.name}: {column.type}' for column in schema)}. Name one `image`, "
            "of type struct<bytes, path> or binary."
        )
    key = next((name for name in _KEYS if name in schema.names), None)
    if key and not any(is_kind(schema.field(key).type) for is_kind in _KINDS_OF_KEY):
        raise SourceError(
            f"column `{key}` of {path} is {schema.field(key).type}; a key is a text or a whole "
            "number. Write it as one, or rename the column."
        )
    if "label" in schema.names and not pa.types.is_integer(schema.field("label").type):
        raise SourceError(
            f"column `label` of {path} is {schema.field('label').type}; a label is a whole number."
        )
    return Columns(image=found[0], key=key, label=_label_of(schema))


_KEYS = ("key", "__key__")
_KINDS_OF_KEY = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_integer, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_dictionary),
)
_LABEL = re.compile(r"(.+_)?(label|labels|class|target|category|cls)(_id|_idx|_index)?", re.I)


def _label_of(schema: Any) -> str | None:
    """Return the column of labels: `label`, or the only one of whole numbers that is named so.

    Of CIFAR-100's two it is the finer one. Of others nobody can tell.
    """
    numbers = [
        name for name in _like_labels(schema) if pa.types.is_integer(schema.field(name).type)
    ]
    chosen = next((name for name in ("label", "fine_label") if name in numbers), None)
    return chosen or (numbers[0] if len(numbers) == 1 else None)


def _like_labels(schema: Any) -> list[str]:
    return [name for name in schema.names if _LABEL.fullmatch(name)]


def ignored_columns(path: Path) -> list[str]:
    """Return the columns that may be labels and are not read; none where the file is damaged."""
    try:
        with open_parquet(path) as file:
            taken = _label_of(file.schema_arrow)
            return [name for name in _like_labels(file.schema_arrow) if name != taken]
    except SourceError:
        return []


def _holds_images(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def keys_of(batch: Any, columns: Columns, path: Path) -> tuple[Any, list[str]]:
    """Return the images of a record batch as an Arrow large_binary array, and their keys.

    A key is the row's `key`, else the path Hugging Face keeps beside the bytes, else the
    xxh3 of the bytes in hexadecimal: never the position, which moves when rows are filtered.

    Raises:
        SourceError: If a row has no image bytes, or a key that is no text.
    """
    column = batch.column(columns.image)
    struct = pa.types.is_struct(column.type)
    images = (pc.struct_field(column, "bytes") if struct else column).cast(pa.large_binary())
    names: list[str | None] = [None] * len(images)
    if columns.key is not None:
        names = _texts(batch.column(columns.key), columns.key, path)
    elif struct and column.type.get_field_index("path") >= 0:
        names = _texts(pc.struct_field(column, "path"), f"{columns.image}.path", path)
    if images.null_count:
        row = pc.index(pc.is_null(images), True).as_py()
        raise SourceError(
            f"{path} holds a row without image bytes (named {names[row]!r}): images must be in "
            "the table, not beside it."
        )
    keys = [
        name or xxhash.xxh3_64_hexdigest(image.as_py())
        for name, image in zip(names, images, strict=True)
    ]
    return images, keys


def _texts(column: Any, name: str, path: Path) -> list[str | None]:
    try:
        texts: list[str | None] = column.cast(pa.string()).to_pylist()
        return texts
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(
            f"column `{name}` of {path} holds what is no key ({error}). Keys are UTF-8 texts."
        ) from error


def labels_of(batch: Any, columns: Columns, path: Path) -> NDArray[np.int64]:
    """Return the labels of a record batch, shape `(n,)`, negative where unknown.

    Raises:
        SourceError: If one has more than 63 bits.
    """
    if columns.label is None:
        return np.full(batch.num_rows, -1, dtype=np.int64)
    try:
        filled = pc.fill_null(batch.column(columns.label).cast(pa.int64()), -1)
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"column `{columns.label}` of {path} holds a label of more than 63 bits ({error}). "
            "Number the classes from 0 on."
        ) from error
    labels: NDArray[np.int64] = np.maximum(filled.to_numpy(zero_copy_only=False), -1)
    return labels


def _join(chunks: list[Any]) -> Any:
    # 64-bit offsets, since one array may well pass 2 GiB.
    return pa.concat_arrays([pa.array([], pa.large_binary()), *chunks])
