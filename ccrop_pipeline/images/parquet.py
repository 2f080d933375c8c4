"""Parquet tables in the Hugging Face image layout."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ccrop_pipeline.errors import SourceError
from ccrop_pipeline.images.keys import Keys, numbered_shards, refuse_duplicates
from ccrop_pipeline.images.parquet_columns import (
    Columns,
    find_columns,
    keys_of,
    labels_of,
    open_parquet,
)
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
            [f"{shard} ({piece.path})" for shard, piece in self._pieces],
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
                room = _room(piece.path)
                for batch in _batches(file, piece, columns):
                    images, batch_keys = keys_of(batch, columns, piece.path)
                    room -= images.nbytes
                    if room < 0:
                        raise _too_much(piece.path)
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
    unpacked, room = _unpacked(file.metadata, groups, columns), _room(piece.path)
    if sum(unpacked) > room:
        raise _too_much(piece.path)
    # Each row of a batch may be all that a row group has: one value, repeated.
    rows = max(1, min(BATCH_ROWS, room // max([1, *unpacked])))
    position = first
    try:
        for batch in file.iter_batches(rows, row_groups=groups, columns=columns.needed):
            skip = max(piece.rows.start - position, 0)
            kept = batch.slice(skip, max(piece.rows.stop - position - skip, 0))
            position += batch.num_rows
            if kept.num_rows:
                yield kept
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{piece.path} is damaged ({error}). Fetch or write it again.") from error


def _unpacked(footer: Any, groups: list[int], columns: Columns) -> list[int]:
    """Return the bytes of each part of the columns that are read, before it is unpacked."""
    chunks = [footer.row_group(g).column(i) for g in groups for i in range(footer.num_columns)]
    of = [(f"{chunk.path_in_schema}.", chunk.total_uncompressed_size) for chunk in chunks]
    return [size for path, size in of if path.startswith(tuple(f"{n}." for n in columns.needed))]


def _room(path: Path) -> int:
    return _SMALL + _SHRINK * path.stat().st_size


def _too_much(path: Path) -> SourceError:
    return SourceError(
        f"the images of {path} unpack into more than {_SHRINK} times its bytes: one is repeated "
        "over and over, or holds nothing. Write each once, and leave out what is no image."
    )


def _join(chunks: list[Any]) -> Any:
    # 64-bit offsets, since one array may well pass 2 GiB.
    return pa.concat_arrays([pa.array([], pa.large_binary()), *chunks])
