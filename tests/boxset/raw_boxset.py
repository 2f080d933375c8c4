"""Box sets written from docs/format.md by plain means, without the code under test.

A `RawSet` starts valid. Tests change its rows, its JSON or its files and write it.
"""

import hashlib
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIX = {"parquet": ".parquet", "webdataset": ".boxes.tar"}


def text_of(header: dict[str, Any]) -> str:
    """Write a provenance as another program might: with spaces, and not in ASCII."""
    return json.dumps(header, ensure_ascii=False, indent=1)


def make_header(**changes: Any) -> dict[str, Any]:
    header = {
        "format": "ccrop-boxes",
        "version": 1,
        "frame": "stored pixels, EXIF orientation not applied, origin top left",
        "box": "x_min, y_min, x_max, y_max; normalised to the image frame; half-open",
        "encoder": {"name": "resnet18", "layer": "layer4", "weights_sha256": "ab", "epoch": 7},
        "localizer": {
            "map": "sum",
            "threshold": 0.1,
            "mass": None,
            "component": "all",
            "margin": 0.0,
            "min_size": 0.0,
            "interpolation": "bilinear",
            "input_size": 224,
            "preprocessing": "Größe 224",
        },
        "source": {"kind": "tar", "fingerprint": "cd"},
        "rule": None,
    }
    return header | changes


def make_row(key: str, **changes: Any) -> dict[str, Any]:
    row = {"key": key, "x_min": 0.25, "y_min": 0.0, "x_max": 1.0, "y_max": 0.5}
    row |= {
        "width": 640,
        "height": 480,
        "orientation": 1,
        "status": "ok",
        "image_hash": (1 << 64) - 1,
    }
    return row | changes


def statistics(rows: list[dict[str, Any]]) -> dict[str, Any]:
    areas = [area_of(row) for row in rows]
    histogram = [0] * 10
    for area in areas:
        histogram[next(i for i in range(10) if area <= (i + 1) / 10 or i == 9)] += 1
    statuses = [row["status"] for row in rows]
    return {
        "counts": {name: statuses.count(name) for name in ("ok", "empty", "unreadable")},
        "mean_area": sum(areas) / len(areas) if areas else None,
        "area_histogram": histogram,
        "nearly_full": sum(area > 0.9 for area in areas),
        "full": sum(area == 1 for area in areas),
    }


def area_of(row: dict[str, Any]) -> float:
    edges = [row[edge] for edge in ("x_min", "y_min", "x_max", "y_max")]
    if not all(isinstance(edge, int | float) and -9 < edge < 9 for edge in edges):
        return 0.5  # whatever: such a box breaks a rule of its own
    x_min, y_min, x_max, y_max = struct.unpack("4f", struct.pack("4f", *edges))  # as stored
    return (x_max - x_min) * (y_max - y_min)


def make_schema(heatmap: bool, choices: bool) -> pa.Schema:
    fields = [("key", pa.string())]
    fields += [(name, pa.float32()) for name in ("x_min", "y_min", "x_max", "y_max")]
    fields += [("width", pa.uint32()), ("height", pa.uint32())]
    fields += [("orientation", pa.uint8())]
    fields += [("status", pa.string()), ("image_hash", pa.uint64())]
    if heatmap:
        fields.append(("heatmap", pa.list_(pa.list_(pa.float16()))))
    if choices:
        fields.append(("choices", pa.list_(pa.list_(pa.float32()))))
    return pa.schema(fields)


class RawSet:
    def __init__(self, form: str = "parquet") -> None:
        self.form = form
        self.shards = {
            "a-0": [make_row("one"), make_row("two")],
            "a-1": [make_row("three")],
        }
        self.header = make_header()
        self.libraries: Any = {"torch": "2.7.0"}
        self.entries: dict[str, dict[str, str]] = {}  # by shard; others have those of the header
        self.row_group = 65_536
        self.member = {}  # key -> other member name
        self.edit_sample: Callable[[str], str] = lambda text: text  # of a-0's second row
        self.edit_table: Callable[[pa.Table], pa.Table] = lambda table: table
        self.edit_files: Callable[[Path], None] = lambda folder: None
        self.edit_manifest: Callable[[dict[str, Any]], Any] = lambda manifest: None
        self.edit_folder: Callable[[Path], None] = lambda folder: None
        self.images: list[tuple[str, str, int]] | None = None

    def set(self, **changes: Any) -> None:
        self.shards["a-0"][1] |= changes

    def write(self, folder: Path) -> None:
        (folder / "data").mkdir(parents=True)
        for name, rows in self.shards.items():
            entries = self.entries.get(name, self.entries_of(text_of(self.header)))
            path = folder / "data" / (name + SUFFIX[self.form])
            if self.form == "parquet":
                self._write_parquet(path, rows, entries)
            else:
                path.write_bytes(self._tar(rows, entries))
        self.edit_files(folder / "data")
        manifest = self._manifest(folder)
        self.edit_manifest(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        self.edit_folder(folder)

    def entries_of(self, text: str) -> dict[str, str]:
        return {"ccrop": text, "ccrop_libraries": json.dumps(self.libraries)}

    def _write_parquet(self, path: Path, rows: list[Any], entries: dict[str, str]) -> None:
        table = pa.Table.from_pylist(rows, make_schema("heatmap" in rows[0], "choices" in rows[0]))
        table = self.edit_table(table)
        table = table.replace_schema_metadata(entries)
        pq.write_table(table, path, row_group_size=self.row_group)

    def _tar(self, rows: list[Any], entries: dict[str, str]) -> bytes:
        out = io.BytesIO()
        if entries:
            records = b"".join(_pax_record(name, text) for name, text in entries.items())
            out.write(_entry("pax", b"g", records))
        for row in rows:
            content = row | {"image_hash": f"{row['image_hash']:016x}"}
            name = self.member.get(row["key"], row["key"] + ".box.json")
            text = json.dumps(content)
            text = self.edit_sample(text) if row["key"] == "two" else text
            out.write(_entry(name, b"0", text.encode()))
        return out.getvalue() + bytes(1024)

    def _manifest(self, folder: Path) -> dict[str, Any]:
        shards = []
        for name, rows in self.shards.items():
            file = "data/" + name + SUFFIX[self.form]
            data = (folder / file).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            entry = {"name": name, "file": file, "rows": len(rows)}
            shards.append(entry | {"bytes": len(data), "sha256": digest})
        text = text_of(self.header)
        return {
            "format": self.header.get("format"),
            "version": self.header.get("version"),
            "form": self.form,
            "fingerprint": hashlib.sha256(text.encode("utf-8")).hexdigest(),
            "provenance": text,
            "libraries": self.libraries,
            "rows": sum(len(rows) for rows in self.shards.values()),
            "statistics": statistics([row for rows in self.shards.values() for row in rows]),
            "shards": shards,
        }


def _pax_record(keyword: str, value: str) -> bytes:
    # POSIX pax: "<length of the whole record, itself included> keyword=value\n".
    rest = f" {keyword}={value}\n".encode()
    length = len(rest)
    while length != len(str(length)) + len(rest):
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def _entry(name: str, kind: bytes, data: bytes) -> bytes:
    # POSIX ustar header: fixed fields in octal, and a checksum taken with its own field blank.
    head = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2
    head += b"%011o\0" % len(data) + b"%011o\0" % 0 + b" " * 8 + kind + bytes(100)
    head = (head + b"ustar\x0000").ljust(512, b"\0")
    head = head[:148] + b"%06o\0 " % sum(head) + head[156:]
    return head + data + bytes(-len(data) % 512)
