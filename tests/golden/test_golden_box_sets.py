"""Box sets of format version 1 as they were first written: every later version reads them.

Files are never written again: `sha256sum -c SHA256SUMS`. What they hold is in the JSON beside
them, written from the arrays before they went into a file.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ccrop_pipeline.boxset import BoxSet, convert, validate

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "hostile"))

import second_reader  # noqa: E402 - in the folder beside this one

# Of the lines of SHA256SUMS about box sets: format version 1 is frozen. Never change it.
FROZEN = "f3801c9ba174a8a9d53cdddb2bc3cfd55be33bfd4ab7aee4096770eee72a2507"
NAMES = ("plain", "heatmaps", "choices", "all")
FORMS = ("parquet", "webdataset")


def listed_files():
    lines = (HERE / "SHA256SUMS").read_text("utf-8").splitlines()
    return [line for line in lines if "  box-sets/" in line]


def expected_of(name):
    return json.loads((HERE / f"box-sets/{name}.json").read_text("utf-8"))


def test_no_file_has_changed_and_none_came():
    lines = listed_files()
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == FROZEN
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    there = {path for path in (HERE / "box-sets").rglob("*") if path.is_file()}
    names = {path.relative_to(HERE).as_posix(): path for path in there}
    assert names.keys() == listed.keys()
    for name, path in names.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_read_as_it_was_written(name, form):
    folder, expected = HERE / f"box-sets/{name}-{form}", expected_of(name)
    assert validate(folder) == []
    boxes = BoxSet.open(folder)
    provenance = boxes.manifest.provenance.to_json()
    assert provenance == expected["provenance"]
    shards = dict(boxes.tables())
    assert list(shards) == list(expected["shards"])
    for shard, rows in expected["shards"].items():
        table = shards[shard]
        assert len(table) == len(rows)
        for number, (row, wanted) in enumerate(zip(table, rows, strict=True)):
            found = row._asdict() | {"image_hash": f"{row.image_hash:016x}"}
            for field in ("key", "width", "height", "orientation", "status", "image_hash"):
                assert found[field] == wanted[field], field
            assert list(row.box) == wanted["box"]
            choices = None if row.choices is None else [list(choice) for choice in row.choices]
            assert choices == wanted.get("choices")
            if "heatmap" in wanted:
                assert table.heatmaps[number].astype(float).tolist() == wanted["heatmap"]
            else:
                assert table.heatmaps is None
    wanted = {row["key"]: row["box"] for rows in expected["shards"].values() for row in rows}
    assert boxes.find(list(wanted)).tolist() == list(wanted.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_second_reader_finds_the_same_boxes(name):
    rows = [row for rows in expected_of(name)["shards"].values() for row in rows]
    found = list(second_reader.read(HERE / f"box-sets/{name}-parquet"))
    assert found == [(row["key"], tuple(row["box"])) for row in rows]


@pytest.mark.parametrize("name", NAMES)
def test_one_form_gives_the_other(name, tmp_path):
    tar = HERE / f"box-sets/{name}-webdataset"
    convert(HERE / f"box-sets/{name}-parquet", tmp_path / "tar", form="webdataset")
    for path in (tar / "data").iterdir():
        assert (tmp_path / "tar/data" / path.name).read_bytes() == path.read_bytes()
    # Bytes of Parquet differ from version to version of pyarrow, values do not.
    convert(tar, tmp_path / "parquet", form="parquet")
    first, second = BoxSet.open(tmp_path / "parquet"), BoxSet.open(tar)
    for (shard, one), (other, two) in zip(first.tables(), second.tables(), strict=True):
        assert shard == other
        assert [*one] == [*two]
        if one.heatmaps is not None:
            assert np.array_equal(one.heatmaps, two.heatmaps)


def test_a_copy_is_the_same_box_set(tmp_path):
    shutil.copytree(HERE / "box-sets/all-parquet", tmp_path / "copy")
    first, second = BoxSet.open(HERE / "box-sets/all-parquet"), BoxSet.open(tmp_path / "copy")
    assert first.manifest.sha256 == second.manifest.sha256


def kinds(value, at=""):
    """Yield the path and type of every field in an object of JSON."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from kinds(part, f"{at}/{name}")
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from kinds(value[0], f"{at}[]")
    else:
        yield at, type(value)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_now_has_all_that_was_written_first(name, tmp_path):
    first, now = HERE / f"box-sets/{name}-parquet", tmp_path / "now"
    convert(HERE / f"box-sets/{name}-webdataset", now, form="parquet")
    old, new = (json.loads((one / "manifest.json").read_bytes()) for one in (first, now))
    assert set(kinds(old)) <= set(kinds(new))
    for shard in old["shards"]:
        old_schema, new_schema = (pq.read_schema(one / shard["file"]) for one in (first, now))
        assert set(zip(old_schema.names, old_schema.types, strict=True)) <= set(
            zip(new_schema.names, new_schema.types, strict=True)
        )
        assert old_schema.metadata[b"ccrop"] == new_schema.metadata[b"ccrop"]
    assert list(second_reader.read(now)) == list(second_reader.read(first))
