"""A second reader of the Parquet form, written from docs/format.md: python second_reader.py BOXES.

Needs pyarrow and nothing of ccrop, goes row by row, and stops at the first rule that is broken. It
tells of every rule but B016 (of the other form), B026 and B027 (which need the images) and B032.
"""

import hashlib
import json
import math
import struct
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

EDGES = ("x_min", "y_min", "x_max", "y_max")
FULL = (0.0, 0.0, 1.0, 1.0)
STATUSES = ("ok", "empty", "unreadable")
SAME = {
    "format": "ccrop-boxes",
    "version": 1,
    "frame": "stored pixels, EXIF orientation not applied, origin top left",
    "box": "x_min, y_min, x_max, y_max; normalised to the image frame; half-open",
}
ENCODER = {"name": str, "layer": str, "weights_sha256": str, "epoch": (int, None)}
LOCALIZER = {
    **{"map": str, "threshold": (float, None), "mass": (float, None), "component": str},
    **{"margin": float, "min_size": float, "interpolation": str, "input_size": int},
    "preprocessing": str,
}
CHOICE = {"images": int, "windows": int, "worthless": bool}
CURVES = ("threshold", "kappa", "freedom", "mean_area")
MANIFEST = {
    **{"form": str, "fingerprint": str, "provenance": str, "libraries": dict, "rows": int},
    **{"statistics": dict, "shards": list},
}
ENTRY = {"name": str, "file": str, "rows": int, "bytes": int, "sha256": str}
STATISTICS = {
    **{"counts": dict, "mean_area": (float, None), "area_histogram": list},
    **{"nearly_full": int, "full": int},
}
COLUMNS = {
    **dict.fromkeys(EDGES, pa.float32()),
    **{"width": pa.uint32(), "height": pa.uint32(), "orientation": pa.uint8()},
    "image_hash": pa.uint64(),
}
CELLS = {"heatmap": pa.float16(), "choices": pa.float32()}


class Broken(Exception):  # noqa: N818 - a verdict, not a fault of this program
    """A rule is broken: its id, and how."""


def expect(rule: str, condition: object, message: object) -> None:
    """Stop unless a rule is kept."""
    if not condition:
        raise Broken(f"{rule} {str(message)[:200]}")


def parsed(rule: str, text: str | bytes) -> Any:
    """Parse strict JSON: no name twice, no NaN, no infinity, Unicode text only."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        expect(rule, len(dict(pairs)) == len(pairs), "a name twice in an object")
        return dict(pairs)

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is no JSON")

    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Broken(f"{rule} {str(error)[:200]}") from error
    return value


def check_fields(rule: str, value: Any, fields: dict[str, Any]) -> None:
    """Check that an object has fields, each of its type; others are ignored."""
    expect(rule, isinstance(value, dict), "no object")
    for name, kinds in fields.items():
        expect(rule, name in value, f"there is no {name}")
        check_kind(rule, value[name], kinds, name)


def check_kind(rule: str, value: Any, kinds: Any, name: str) -> None:
    """Check one value: true is no number, and 1.0 no integer; an integer is a number."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if value is None:
        return expect(rule, None in kinds, f"{name} is null")
    right = type(value) in kinds or (type(value) is int and float in kinds)
    expect(rule, right, f"{name} is {value!r}")
    return expect(rule, type(value) is not float or math.isfinite(value), f"{name} is {value}")


def check_provenance(text: str, libraries: Any) -> None:
    """Check section 2."""
    data = parsed("B003", text)
    expect("B002", isinstance(data, dict), "the provenance is no object")
    for name in ("format", "version"):
        expect("B002", same(data.get(name), SAME[name]), f"{name} is {data.get(name)!r}")
    for name, value in SAME.items():
        expect("B003", same(data.get(name), value), f"{name} is {data.get(name)!r}")
    fields = {"encoder": (dict, None), "localizer": (dict, None), "source": dict}
    check_fields("B003", data, {**fields, "rule": (str, None)})
    encoder, localizer = data["encoder"], data["localizer"]
    expect("B003", (encoder is None) == (localizer is None), "encoder without localizer")
    expect("B003", encoder is not None or data["rule"], "neither encoder nor rule")
    check_fields("B003", data["source"], {"kind": str, "fingerprint": str})
    if encoder is not None:
        check_fields("B003", encoder, ENCODER)
        check_fields("B003", localizer, LOCALIZER)
        check_localizer(localizer)
    expect("B003", isinstance(libraries, dict), "libraries are no object")
    for name, version in libraries.items():
        expect("B003", isinstance(version, str), f"the version of {name} is {version!r}")


def check_localizer(found: dict[str, Any]) -> None:
    threshold, mass = found["threshold"], found["mass"]
    expect("B003", (threshold is None) != (mass is None), "threshold and mass")
    expect("B003", threshold is None or 0 <= threshold <= 1, f"threshold is {threshold}")
    expect("B003", mass is None or 0 < mass <= 1, f"mass is {mass}")
    expect("B003", found["component"] in ("all", "largest"), found["component"])
    share, choice = found.get("mean_share", 0), found.get("choice")
    check_kind("B003", share, float, "mean_share")
    expect("B003", 0 <= share <= 2 and not (share and threshold is None), "mean_share")
    if choice is not None:
        check_fields("B003", choice, {**CHOICE, **dict.fromkeys(CURVES, list)})
        expect("B003", len({len(choice[name]) for name in CURVES}) == 1, "choice")
        for name in CURVES:
            for number in choice[name]:
                check_kind("B003", number, float, name)
    weight = found.get("centre_weight", 0)
    check_kind("B003", weight, float, "centre_weight")
    expect("B003", 0 <= weight <= 1, "centre_weight")
    expect("B003", found["margin"] >= 0 and 0 <= found["min_size"] <= 1, "margin or min_size")


def same(value: Any, other: Any) -> bool:
    """Compare as JSON does: 1, 1.0 and true differ."""
    return type(value) is type(other) and value == other


def read_manifest(folder: Path) -> dict[str, Any]:
    """Check section 3."""
    path = folder / "manifest.json"
    expect("B001", path.is_file() and path.stat().st_size < 1 << 30, "no manifest.json")
    manifest = parsed("B001", path.read_bytes())
    expect("B001", isinstance(manifest, dict), "no object")
    for name in ("format", "version"):
        expect("B002", same(manifest.get(name), SAME[name]), f"{name} is {manifest.get(name)!r}")
    check_fields("B001", manifest, MANIFEST)
    expect("B001", 0 <= manifest["rows"] < 1 << 53, "rows")
    check_fields("B001", manifest["statistics"], STATISTICS)
    check_fields("B001", manifest["statistics"]["counts"], dict.fromkeys(STATUSES, int))
    for number in manifest["statistics"]["area_histogram"]:
        check_kind("B001", number, int, "area_histogram")
    for entry in manifest["shards"]:
        check_fields("B001", entry, ENTRY)
        expect("B001", 0 <= entry["rows"] < 1 << 53 > entry["bytes"] >= 0, "rows or bytes")
    for version in manifest["libraries"].values():
        check_kind("B001", version, str, "libraries")
    check_provenance(manifest["provenance"], manifest["libraries"])
    digest = hashlib.sha256(manifest["provenance"].encode()).hexdigest()
    expect("B004", manifest["fingerprint"] == digest, "fingerprint")
    expect("B005", manifest["form"] in ("parquet", "webdataset"), manifest["form"])
    names = [entry["name"] for entry in manifest["shards"]]
    expect("B006", len(set(names)) == len(names), "a shard is listed twice")
    for entry in manifest["shards"]:
        name = entry["name"]
        plain = name and not name.startswith(".") and not set(name) & set("/\\\0")
        expect("B006", plain, f"a shard is named {name!r}")
        expect("B006", entry["file"] == f"data/{name}.parquet", entry["file"])
    expect("B008", sum(e["rows"] for e in manifest["shards"]) == manifest["rows"], "rows")
    return dict(manifest)


def read_shard(path: Path, entry: dict[str, Any], provenance: str) -> list[dict[str, Any]]:
    """Check the file of a shard, sections 3 and 5, and return its rows."""
    expect("B007", path.is_file() and path.stat().st_size == entry["bytes"], path.name)
    data = path.read_bytes()
    expect("B007", hashlib.sha256(data).hexdigest() == entry["sha256"], path.name)
    try:
        footer = pq.read_metadata(pa.BufferReader(data))
        # Bombs: no row is stored in less than a byte.
        expect("B011", footer.num_rows <= len(data), "more rows than bytes")
        texts = {str(k, "utf-8"): str(v, "utf-8") for k, v in (footer.metadata or {}).items()}
        kept = ["key", "status"]  # as they lie in the file, without copies for every row
        names = pq.read_schema(pa.BufferReader(data)).names
        expect("B014", len(set(names)) == len(names), "a column twice")
        wanted = [name for name in names if name in {*COLUMNS, *CELLS, "key", "status"}]
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=kept)
        table = file.read(columns=wanted)
        table.validate(full=True)
    except Broken:
        raise
    except Exception as error:
        raise Broken(f"B011 {path.name}: {str(error)[:200]}") from error
    expect("B012", {"ccrop", "ccrop_libraries"} <= set(texts), "no entries in the footer")
    check_provenance(texts["ccrop"], parsed("B003", texts["ccrop_libraries"]))
    expect("B013", texts["ccrop"] == provenance, "another provenance")
    expect("B008", table.num_rows == entry["rows"], f"{table.num_rows} rows")
    for group in range(footer.num_row_groups):
        expect("B015", footer.row_group(group).num_rows <= 65_536, "a row group")
    check_columns(table)
    for key in ("key", "status"):
        column = table[key].combine_chunks()
        if key == "key" and pa.types.is_dictionary(column.type):
            expect("B018", len(set(column.indices.to_pylist())) == len(column), "a key twice")
        if key == "status" and pa.types.is_dictionary(column.type):
            used = {column.dictionary[i].as_py() for i in set(column.indices.to_pylist())}
            expect("B019", used <= set(STATUSES), used)
    return list(table.to_pylist())


def check_columns(table: pa.Table) -> None:
    """Check names, types and missing values, section 4."""
    for name, kind in COLUMNS.items():
        expect("B014", name in table.schema.names, f"no column {name}")
        expect("B014", table.schema.field(name).type == kind, f"{name} is no {kind}")
    for name in ("key", "status"):
        expect("B014", name in table.schema.names, f"no column {name}")
        kind = table.schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        expect("B014", kind in (pa.string(), pa.large_string()), f"{name} is {kind}")
    for name in CELLS.keys() & set(table.schema.names):
        kind = table.schema.field(name).type
        for _ in range(2):
            expect("B014", hasattr(kind, "value_type") and "list" in str(kind), f"{name}: {kind}")
            kind = kind.value_type
        expect("B014", kind == CELLS[name], f"{name} is a list of {kind}")
    for name in table.schema.names:
        expect("B014", table[name].null_count == 0, f"{name} has missing values")


def check_row(row: dict[str, Any]) -> None:
    """Check the values of a row, section 4."""
    key, status = row["key"], row["status"]
    expect("B017", key and not any(unicodedata.category(c) in ("Cc", "Cs") for c in key), repr(key))
    expect("B019", status in STATUSES, status)
    box = tuple(row[edge] for edge in EDGES)
    expect("B020", all(0 <= edge <= 1 for edge in box), box)
    expect("B021", box[0] < box[2] and box[1] < box[3], box)
    expect("B022", status == "ok" or box == FULL, box)
    expect("B023", (row["width"] and row["height"]) or status == "unreadable", "no size")
    turned = 1 <= row["orientation"] <= (1 if status == "unreadable" else 8)
    expect("B031", turned, f"orientation is {row['orientation']}")
    if "choices" in row:
        check_choices(row["choices"], box)


def check_choices(choices: list[Any], box: tuple[float, ...]) -> None:
    for choice in choices:
        expect("B014", choice is not None and len(choice) == 4 and None not in choice, choice)
    expect("B029", choices, "no choices")
    for choice in choices:
        inside = all(0 <= edge <= 1 for edge in choice)
        expect("B029", inside and choice[0] < choice[2] and choice[1] < choice[3], choice)
    union = (
        *(min(c[i] for c in choices) for i in (0, 1)),
        *(max(c[i] for c in choices) for i in (2, 3)),
    )
    expect("B030", union == box, box)


def shape_of(row: dict[str, Any]) -> tuple[int, int] | None:
    """Return height and width of a heatmap, its cells checked."""
    if "heatmap" not in row:
        return None
    widths = {len(line) if line is not None else None for line in row["heatmap"]}
    expect("B014", None not in widths, "a heatmap with missing lines")
    cells = [cell for line in row["heatmap"] for cell in line]
    expect("B014", None not in cells, "a heatmap with missing cells")
    expect("B024", len(widths) == 1 and cells, f"a heatmap with lines of {widths}")
    expect("B025", all(0 <= cell <= 1 for cell in cells), "a heatmap leaves [0, 1]")
    return len(row["heatmap"]), widths.pop() or 0


def check_statistics(rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Check that the manifest has the statistics of the rows."""
    areas = [(row["x_max"] - row["x_min"]) * (row["y_max"] - row["y_min"]) for row in rows]
    histogram = [0] * 10
    for area in areas:
        histogram[min(9, max(0, math.ceil(10 * area) - 1))] += 1
    statuses = [row["status"] for row in rows]
    for status in STATUSES:
        expect("B009", found["counts"][status] == statuses.count(status), f"number of {status}")
    expect("B009", found["area_histogram"] == histogram, "area_histogram")
    expect("B009", found["nearly_full"] == sum(area > 0.9 for area in areas), "nearly_full")
    full = sum(tuple(row[edge] for edge in EDGES) == FULL for row in rows)
    expect("B009", found["full"] == full, "full")
    mean = math.fsum(areas) / len(areas) if areas else None
    near = mean is not None and abs((found["mean_area"] or 0) - mean) <= 1e-6
    expect("B009", found["mean_area"] is None if mean is None else near, "mean_area")


def read(folder: Path) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Check a box set and yield key and box of every image.

    Raises:
        Broken: If a rule is broken.
    """
    manifest = read_manifest(folder)
    expect("B005", manifest["form"] == "parquet", "another form than this reader's")
    listed = {entry["file"] for entry in manifest["shards"]}
    for path in (folder / "data").iterdir() if (folder / "data").is_dir() else ():
        visible = not path.name.startswith(".") and path.name.endswith((".parquet", ".boxes.tar"))
        expect("B010", not visible or f"data/{path.name}" in listed, path.name)
    rows: list[dict[str, Any]] = []
    shapes, kinds = set(), set()
    for entry in manifest["shards"]:
        own = read_shard(folder / entry["file"], entry, manifest["provenance"])
        for row in own:
            check_row(row)
        shapes |= {shape_of(row) for row in own}
        kinds |= {"choices" in row for row in own}
        rows += own
    expect("B018", len({row["key"] for row in rows}) == len(rows), "a key twice")
    expect("B024", len(shapes) <= 1, f"heatmaps of {shapes}")
    expect("B028", len(kinds) <= 1, "choices in some shards only")
    check_statistics(rows, manifest["statistics"])
    for row in rows:
        yield row["key"], struct.unpack("4f", struct.pack("4f", *(row[edge] for edge in EDGES)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        for key, box in read(Path(sys.argv[1])):
            print(key, *box)
    except Broken as error:
        sys.exit(str(error))
