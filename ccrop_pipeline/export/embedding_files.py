"""A folder of embeddings: a Parquet file for each shard of a source, and a record written last."""

import json
from array import array
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccrop_pipeline.base import BoxFolder
from ccrop_pipeline.base.files import TargetTakenError, refuse_file, remove_leftovers
from ccrop_pipeline.base.stores import LocalFolder
from ccrop_pipeline.base.values import differences, parse_json
from ccrop_pipeline.boxset import library_versions
from ccrop_pipeline.boxset.shards import shard_file
from ccrop_pipeline.errors import CcropError, SourceError, few, reading

RECORD = "embeddings.json"
# A folder of their own: readers of Parquet folders take every file in one for Parquet.
DATA = "embeddings"
_TEXT, _LIBRARIES, _UNREADABLE = "ccrop_embeddings", "ccrop_libraries", "ccrop_unreadable"
_GROUP_BYTES = 1 << 26  # of embeddings in a row group
_ENTRY = ("name", "rows", "bytes", "unreadable")  # of a shard in the record


def schema(channels: int, dtype: str) -> Any:
    """Return the columns of a file."""
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("label", pa.int64()),
            pa.field("image_hash", pa.uint64(), nullable=False),
            pa.field("embedding", pa.list_(pa.type_for_alias(dtype), channels), nullable=False),
        ]
    )


def strangers(folder: Path) -> list[str]:
    """Find what is in a local folder and no part of embeddings or left from writing them."""
    data = folder / DATA
    files = data.iterdir() if data.is_dir() else ()
    found = {path for path in folder.iterdir() if path.name not in (RECORD, DATA)}
    found |= {path for path in files if path.suffix != ".parquet"}
    return sorted(str(path.relative_to(folder)) for path in found if path.name[0] != ".")


def twice(key: str, where: str) -> SourceError:
    """Return the error of a key that two images have."""
    return SourceError(
        f"the key {key!r} is twice in {where}: keys must be unique, since embeddings are found by "
        "them. Pack the images again, `ccrop data pack`, with keys of their own."
    )


def changed(key: str, place: str) -> SourceError:
    """Return the error of an image that is not the one which was embedded."""
    return SourceError(
        f"the image {key!r} is not the one whose embedding is in {place}: its bytes have changed. "
        "Set `overwrite`, or choose another folder."
    )


@dataclass(frozen=True)
class EmbeddingFolder:
    """The embeddings of the images of some shards.

    Attributes:
        place: The folder, which need not be there.
        shards: Names of all shards of the source, in order.
        made_by: What every file must say of how it was made; plain values.
    """

    place: BoxFolder
    shards: tuple[str, ...]
    made_by: Mapping[str, Any]

    def left(self, portion: Sequence[str]) -> list[str]:
        """Return the shards of a portion that are not there yet.

        Raises:
            CcropError: If the folder holds anything else, or shards are damaged.
        """
        place, files = self.place, [shard_file(shard) for shard in self.shards]
        if isinstance(place, LocalFolder):
            refuse_file(place.path)
        there = place.inside(DATA).files()
        if place.has(RECORD):
            self._expect_same(self._record().get("made_by"), RECORD)
        elif not there and (found := self._others()):
            raise CcropError(
                f"{place} is not empty and holds no embeddings: found {few(found)}. Choose another "
                "folder, or move what is there."
            )
        if strays := sorted(there.keys() - files):
            raise CcropError(
                f"{place} holds embeddings of other images, such as {DATA}/{strays[0]}. Check the "
                "source, choose another folder, or set `overwrite`."
            )
        # One of any other portion as well, since those who share the work must agree.
        first = [file for file in files if file in there][:1]
        for file in sorted({*first, *map(shard_file, portion)} & there.keys()):
            self._head(file)
        return [shard for shard in portion if shard_file(shard) not in there]

    def hashes(self, shard: str) -> dict[str, int]:
        """Return the hash of each image of a shard that is there, by key."""
        with self.place.inside(DATA).local(shard_file(shard)) as path:
            table = pq.read_table(path.absolute(), columns=["key", "image_hash"])
        return dict(zip(table["key"].to_pylist(), table["image_hash"].to_pylist(), strict=True))

    def write(self, shard: str, table: Any, unreadable: Sequence[str]) -> None:
        """Write a shard, wholly or not at all, unless another process wrote it meanwhile.

        Args:
            shard: Its name.
            table: Its rows, with the columns of `schema`.
            unreadable: Keys of images that have no row.
        """
        libraries = library_versions("torch", "pillow")
        about = {_TEXT: self.made_by, _LIBRARIES: libraries, _UNREADABLE: unreadable}
        texts = {name: json.dumps(value) for name, value in about.items()}
        kind, file = table.schema.field("embedding").type, shard_file(shard)
        row_bytes = kind.list_size * kind.value_type.byte_width
        try:
            with self.place.inside(DATA).written(file) as path:
                pq.write_table(
                    table.replace_schema_metadata(texts),
                    path.absolute(),  # a relative one with a colon in it would be an address
                    compression="zstd",
                    row_group_size=max(1, _GROUP_BYTES // row_bytes),
                    use_dictionary=False,
                )
        except TargetTakenError:
            self._head(file)  # perhaps of a device that rounds differently: it stays

    def complete(self, classes: Sequence[str]) -> list[dict[str, Any]] | None:
        """Write the record, if all shards are there and it is not.

        Any process that has done its portion may call this, several at once as well.

        Args:
            classes: Names of the labels, none where they are not known.

        Returns:
            What it says of the shards: `name`, `rows`, `bytes`, and the keys that are
            `unreadable`. None where some are missing.

        Raises:
            SourceError: If two shards have a key in common.
        """
        there = self.place.inside(DATA).files()
        if any(shard_file(shard) not in there for shard in self.shards):
            return None
        if isinstance(self.place, LocalFolder):
            remove_leftovers(self.place.path)
        sizes = {shard: there[shard_file(shard)] for shard in self.shards}
        if self.place.has(RECORD):
            found: list[dict[str, Any]] = self._record()["shards"]
            if {entry["name"]: entry["bytes"] for entry in found} == sizes:
                return found
            self.place.remove(RECORD)
        entries, hashes = [], array("q")
        for shard, size in sizes.items():
            count, unreadable = self._head(shard_file(shard))
            entry = (shard, count, size, unreadable)
            entries.append(dict(zip(_ENTRY, entry, strict=True)))
            hashes.extend(map(hash, self._keys(shard)))
        self._refuse_twice(hashes)
        content = {"made_by": self.made_by, "classes": classes, "shards": entries}
        with self.place.written(RECORD) as path:
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return entries

    def _head(self, file: str) -> tuple[int, list[str]]:
        """Return the rows of a shard that is there, and the keys that have none.

        Raises:
            CcropError: If it is damaged, or was made in another way.
        """
        with self.place.inside(DATA).local(file) as path, self._reading(f"{DATA}/{file}"):
            footer = pq.read_metadata(path.absolute())
            texts = {str(name, "utf-8"): text for name, text in (footer.metadata or {}).items()}
            made_by = parse_json(texts[_TEXT].decode())
            unreadable = [str(key) for key in parse_json(texts[_UNREADABLE].decode())]
        self._expect_same(made_by, f"{DATA}/{file}")
        return footer.num_rows, unreadable

    def _keys(self, shard: str) -> list[str]:
        with self.place.inside(DATA).local(shard_file(shard)) as path:
            keys: list[str] = pq.read_table(path.absolute(), columns=["key"])["key"].to_pylist()
        return keys

    def _record(self) -> dict[str, Any]:
        with self.place.local(RECORD) as path, self._reading(RECORD):
            record = parse_json(path.read_text(encoding="utf-8"))
            shards = [{name: each[name] for name in _ENTRY} for each in record["shards"]]
            return {**record, "shards": shards}

    def _others(self) -> list[str]:
        if isinstance(self.place, LocalFolder):
            return strangers(self.place.path) if self.place.exists() else []
        return sorted(self.place.files())

    def _reading(self, file: str) -> AbstractContextManager[None]:
        remedy = "Delete it, choose another folder, or set `overwrite`."
        return reading(f"{self.place}/{file}", "is no file of embeddings", remedy)

    def _expect_same(self, made_by: Any, file: str) -> None:
        if made_by == self.made_by:
            return
        known = isinstance(made_by, dict) and made_by.get("format") == self.made_by["format"]
        changed = differences(made_by, self.made_by) if known else ["by another program"]
        raise CcropError(
            f"{self.place} holds embeddings that were made in another way ({file}):\n  "
            + "\n  ".join(changed)
            + "\nRepeat what made them to go on with them, choose another folder, or set "
            "`overwrite`."
        )

    def _refuse_twice(self, hashes: "array[int]") -> None:
        found = np.frombuffer(hashes, np.int64)
        found.sort()
        equal = set(found[1:][found[1:] == found[:-1]].tolist())
        # Equal hashes need not be equal keys, so the few keys in question are read again.
        first: dict[str, str] = {}
        for shard in self.shards if equal else ():
            for key in self._keys(shard):
                if hash(key) in equal and first.setdefault(key, shard) != shard:
                    raise twice(key, f"the shards {first[key]!r} and {shard!r}")
