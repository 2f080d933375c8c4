"""Hostile shards of both forms, in box sets whose manifests vouch for them.

`hostile_boxsets.py` reads them.
"""

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from damaging import changed, garbled

from ccrop_pipeline.boxset import (
    BoxTable,
    Choices,
    Provenance,
    SourceInfo,
    write_manifest,
    write_shard,
)

KEYS = (["a", "b/ü", "c"], ["d", "e"])
NAMES = ("s-0", "s-1")
PROVENANCE = Provenance(None, None, SourceInfo("tar", "ab"), rule="hostile")
SUFFIX = {"parquet": ".parquet", "webdataset": ".boxes.tar"}


def make_table(keys: list[str], seed: int, *, choices: bool) -> BoxTable:
    rng, n = np.random.default_rng(seed), len(keys)
    several = [rng.random((rng.integers(1, 4), 2, 2), np.float32) for _ in keys]
    boxes = [np.sort(part, axis=1).reshape(-1, 4) for part in several]
    drawn = Choices.of(boxes)
    return BoxTable(
        keys,
        drawn.union(),
        rng.integers(1, 900, (n, 2)).astype(np.uint32),
        rng.integers(1, 9, n).astype(np.uint8),
        np.zeros(n, np.uint8),
        rng.integers(0, 2**64, n, np.uint64),
        rng.random((n, 2, 3)).astype(np.float16),
        drawn if choices else None,
    )


@cache
def sound(form: str, choices: bool) -> dict[str, bytes]:
    """Return the files of a box set, by path."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        for number, (name, keys) in enumerate(zip(NAMES, KEYS, strict=True)):
            write_shard(
                folder, name, make_table(keys, number, choices=choices), PROVENANCE, form=form
            )
        write_manifest(folder, NAMES, PROVENANCE, form=form)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class Hostile:
    """A box set to be damaged, then written."""

    def __init__(self, rng: Random, form: str | None = None) -> None:
        self.rng, self.form = rng, form or rng.choice(["parquet", "webdataset"])
        self.choices = rng.random() < 0.5
        self.files = dict(sound(self.form, self.choices))
        self.shard = f"data/{rng.choice(NAMES)}{SUFFIX[self.form]}"

    def manifest(self) -> Any:
        return json.loads(self.files["manifest.json"])

    def say(self, manifest: Any) -> None:
        limit = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        text = json.dumps(manifest, ensure_ascii=self.rng.random() < 0.5)
        sys.set_int_max_str_digits(limit)
        self.files["manifest.json"] = text.encode("utf-8", "surrogatepass")

    def put(self, content: bytes) -> None:
        """Replace the shard, and let the manifest vouch for it."""
        self.files[self.shard] = content
        manifest = self.manifest()
        for entry in manifest["shards"]:
            if entry["file"] == self.shard:
                entry["bytes"] = len(content)
                entry["sha256"] = hashlib.sha256(content).hexdigest()
        self.say(manifest)

    def write(self, folder: Path) -> Path:
        for name, content in self.files.items():
            path = folder / "boxes" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / "boxes"


def parquet_bytes(table: Any, **settings: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **settings)
    return file.getvalue()


def shard_bytes(rng: Random, folder: Path) -> Path:
    hostile = Hostile(rng)
    hostile.put(garbled(rng, hostile.files[hostile.shard]))
    return hostile.write(folder)


# fmt: off
_COLUMNS: list[Callable[[int], Any]] = [
    lambda n: pa.nulls(n),
    lambda n: pa.array([None] * n, pa.string()),
    lambda n: pa.array(["x" * 70_000] * n),
    lambda n: pa.array([b"\xff\xfe"] * n, pa.binary()),
    lambda n: pa.array([b"\xff\xfe"] * n, pa.binary()).view(pa.string()),
    lambda n: pa.array([{"a": 1}] * n),
    lambda n: pa.array([[0.5]] * n, pa.list_(pa.float32())),
    lambda n: pa.array([[[0.1, 0.2, 0.3, 0.4]]] * n, pa.list_(pa.list_(pa.float32()))),
    lambda n: pa.array([[]] * n, pa.list_(pa.list_(pa.float32()))),
    lambda n: pa.array([[[]]] * n, pa.list_(pa.list_(pa.float16()))),
    lambda n: pa.array([[None, [1.0] * 4]] * n, pa.list_(pa.list_(pa.float32()))),
    lambda n: pa.array([None] * n, pa.list_(pa.list_(pa.float32()))),
    lambda n: pa.array([[[1.0] * 4] * row for row in range(n)], pa.list_(pa.list_(pa.float32()))),
    lambda n: pa.array([[[1.0] * 3] * 2] * n, pa.list_(pa.list_(pa.float16(), 3), 2)),
    lambda n: pa.array([[[1.0] * row] * 2 for row in range(n)], pa.list_(pa.list_(pa.float16()))),
    lambda n: pa.array([float("nan")] * n, pa.float32()),
    lambda n: pa.array([float("inf")] * n, pa.float32()),
    lambda n: pa.array([1e-45] * n, pa.float32()),
    lambda n: pa.array([-0.0] * n, pa.float32()),
    lambda n: pa.array([0.5] * n, pa.float64()),
    lambda n: pa.array([2**32 - 1] * n, pa.uint32()),
    lambda n: pa.array([0] * n, pa.uint32()),
    lambda n: pa.array([9] * n, pa.uint8()),
    lambda n: pa.array([-1] * n, pa.int64()),
    lambda n: pa.array([2**64 - 1] * n, pa.uint64()),
    lambda n: pa.array(["ok"] * n).dictionary_encode(),
    lambda n: pa.array(["ok", None][:n] + ["ok"] * (n - 2)).dictionary_encode(),
    lambda n: pa.array(["[/red]\x1b]0;t\x07"] * n),
    lambda n: pa.array(["empty", "ok", "unreadable"][:n]),
    lambda n: pa.array(["", "\u0085", "\ufeff"][:n]),
    lambda n: pa.array([True] * n),
    lambda n: pa.array([0] * n, pa.timestamp("s")),
    lambda n: pa.array([1] * n, pa.decimal128(38, 9)),
]
# fmt: on


def columns(rng: Random, folder: Path) -> Path:
    hostile = Hostile(rng, "parquet")
    table = pq.read_table(io.BytesIO(hostile.files[hostile.shard]))
    texts = dict(table.schema.metadata)
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice([*table.schema.names, "choices", "other"])
        column = rng.choice(_COLUMNS)(table.num_rows)
        where = table.schema.get_field_index(name)
        what = rng.random()
        if what < 0.1 and where >= 0:
            table = table.drop_columns(name)
        elif what < 0.2 or where < 0:
            table = table.append_column(name, column)  # maybe twice
        else:
            table = table.set_column(where, name, column)
        if len(set(table.schema.names)) < table.num_columns:
            break
    if rng.random() < 0.1:
        table = pa.concat_tables([table] * rng.choice([2, 50]))
    if rng.random() < 0.1:
        table = table.slice(0, rng.choice([0, 1]))
    if rng.random() < 0.1:
        texts = rng.choice([{}, {b"ccrop": b"\xff"}, {b"ccrop": b"[" * 9_999}, {b"\xff": b""}])
    own = rng.random() < 0.5  # without the schema of Arrow, as other writers
    with suppress(pa.ArrowException):
        hostile.put(parquet_bytes(
            table.replace_schema_metadata(texts), store_schema=own, row_group_size=2,
            use_dictionary=rng.random() < 0.5, version=rng.choice(["1.0", "2.6"]),
            compression=rng.choice(["zstd", "none", "gzip", "snappy"]),
        ))  # fmt: skip
    return hostile.write(folder)


def samples(rng: Random, folder: Path) -> Path:
    """A tar whose samples, members or heads are odd."""
    hostile = Hostile(rng, "webdataset")
    with tarfile.open(fileobj=io.BytesIO(hostile.files[hostile.shard])) as tar:
        texts = dict(tar.pax_headers)
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    file, odd = io.BytesIO(), rng.randrange(len(members))
    if rng.random() < 0.15:
        texts = rng.choice([{}, {"ccrop": "[" * 9_999}, {"ccrop": "{}"}, {**texts, "size": "9"}])
    form = rng.choice([tarfile.PAX_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    with tarfile.open(fileobj=file, mode="w", format=form, pax_headers=texts) as tar:
        for number, (member, content) in enumerate(members):
            member.pax_headers = {}
            if number == odd:
                content = _odd_member(rng, member, content)
            member.size = len(content)
            with suppress(ValueError, UnicodeError):
                tar.addfile(member, io.BytesIO(content))
    data = bytearray(file.getvalue())
    if rng.random() < 0.3:  # a size or kind that lies, its checksum right
        _lie(rng, data)
    hostile.put(bytes(data))
    return hostile.write(folder)


def _odd_member(rng: Random, member: tarfile.TarInfo, content: bytes) -> bytes:
    what = rng.random()
    if what < 0.6:
        limit = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        value = changed(rng, json.loads(content))
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
        sys.set_int_max_str_digits(limit)
        content = text.encode("utf-8", "surrogatepass")
        if isinstance(value, dict) and isinstance(value.get("key"), str) and rng.random() < 0.5:
            member.name = value["key"] + ".box.json"
    elif what < 0.7:
        member.type = rng.choice(
            [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
        )
        member.linkname = rng.choice(["/dev/zero", "../../x", "a.box.json", member.name])
        content = b""
    elif what < 0.8:
        keyword = rng.choice(["size", "path", "GNU.sparse.realsize", "GNU.sparse.map", "mtime"])
        number = rng.choice(["-1", "9" * 30, "x", "0,9999999999", "nan", "1e999", ""])
        member.pax_headers = {keyword: number}
        if "sparse" in keyword:
            member.pax_headers |= {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    else:
        content = garbled(rng, content)
    return content


def _lie(rng: Random, data: bytearray) -> None:
    heads = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(heads)
    size = rng.choice([b"77777777777\0", b"00000000000\0", b"\x80" + b"\0" * 3 + b"\xff" * 8])
    size = rng.choice([size, b"\xff" * 12, b"-0000000001\0", b"xxxxxxxxxxx\0"])
    if rng.random() < 0.7:
        data[at + 124 : at + 136] = size
    else:
        data[at + 156] = rng.choice(b"0123456789gxLKSVMD\0")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
