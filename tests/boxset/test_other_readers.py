"""One box set, opened by the programs that others have: by folder, by glob and by list of files."""

from pathlib import Path

import datasets
import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from table_strategies import PROVENANCE, make_table

from ccrop_pipeline.boxset import BoxSet, write_manifest, write_shard

EDGES = ["x_min", "y_min", "x_max", "y_max"]
BY = ["folder", "glob", "list"]


@pytest.fixture(scope="module")
def box_set(tmp_path_factory):
    """Two shards, with what lies around them once the set has been in use."""
    folder = tmp_path_factory.mktemp("boxes") / "first"
    for number, keys in enumerate((["a", "b"], ["c"])):
        write_shard(folder, f"s-{number}", make_table(keys, number), PROVENANCE)
    write_manifest(folder, ["s-0", "s-1"], PROVENANCE)
    found = BoxSet.open(folder)
    found.lookup()
    (folder / ".s-0.parquet.0123.tmp").write_bytes(b"left over by a kill")
    return found


@pytest.fixture(scope="module")
def expected(box_set):
    tables = [table for _, table in box_set.tables()]
    return {k: b for table in tables for k, b in zip(table.keys, table.boxes.tolist(), strict=True)}


def places(box_set):
    data = box_set.folder / "data"
    files = sorted(map(str, data.glob("*.parquet")))
    return {"folder": str(data), "glob": f"{data}/*.parquet", "list": files}


def rows(columns):
    return {key: list(box) for key, *box in zip(*columns, strict=True)}


@pytest.mark.parametrize("by", ["folder", "list"])  # Arrow knows no globs
def test_pyarrow(box_set, expected, by):
    place = places(box_set)[by]
    assert rows(pq.read_table(place).select(["key", *EDGES]).to_pydict().values()) == expected
    assert ds.dataset(place).count_rows() == 3


@pytest.mark.parametrize("by", ["folder", "list"])
def test_pandas(box_set, expected, by):
    frame = pd.read_parquet(places(box_set)[by])
    assert rows(frame[name].tolist() for name in ["key", *EDGES]) == expected


@pytest.mark.parametrize("by", BY)
def test_polars(box_set, expected, by):
    frame = pl.read_parquet(places(box_set)[by])
    assert rows(frame[name].to_list() for name in ["key", *EDGES]) == expected
    assert frame["heatmap"].dtype.shape == (7, 7)


@pytest.mark.parametrize("by", BY)
def test_duckdb(box_set, expected, by):
    found = duckdb.sql(f"select key, {', '.join(EDGES)} from read_parquet({places(box_set)[by]!r})")
    assert rows(zip(*found.fetchall(), strict=True)) == expected


@pytest.mark.parametrize("by", ["data_dir", "data_files", "list", "the box set", "streamed"])
def test_hugging_face_datasets(box_set, expected, by, tmp_path):
    place, found = places(box_set), str(box_set.folder)
    arguments = {
        "data_dir": {"path": "parquet", "data_dir": place["folder"]},
        "data_files": {"path": "parquet", "data_files": place["glob"]},
        "list": {"path": "parquet", "data_files": place["list"]},
        "the box set": {"path": found},
        "streamed": {"path": found, "streaming": True},
    }[by]
    data = datasets.load_dataset(**arguments, split="train", cache_dir=str(tmp_path))
    assert rows(zip(*([row["key"], *map(row.get, EDGES)] for row in data), strict=True)) == expected


def test_a_shard_without_rows_is_in_nobodys_way(tmp_path):
    folder = tmp_path / "boxes"
    for name, keys in (("a", []), ("b", ["x", "y"]), ("c", [])):
        write_shard(folder, name, make_table(keys, heatmaps=False), PROVENANCE)
    write_manifest(folder, ["a", "b", "c"], PROVENANCE)
    data = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert data["key"][:] == ["x", "y"]
    place = str(folder / "data")
    assert pd.read_parquet(place)["key"].tolist() == ["x", "y"]
    assert pl.read_parquet(place)["key"].to_list() == ["x", "y"]
    found = duckdb.sql(f"select key from read_parquet('{place}/*.parquet')").fetchall()
    assert found == [("x",), ("y",)]


def test_hugging_face_datasets_open_the_webdataset_form(tmp_path):
    table = make_table(["a", "b"], heatmaps=False)
    write_shard(tmp_path / "boxes", "s", table, PROVENANCE, form="webdataset")
    write_manifest(tmp_path / "boxes", ["s"], PROVENANCE, form="webdataset")
    data = datasets.load_dataset(
        str(tmp_path / "boxes"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [row["box.json"]["key"] for row in data] == ["a", "b"]
    assert [row["box.json"]["x_min"] for row in data] == pytest.approx(table.boxes[:, 0].tolist())


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_the_card_says_what_it_is(form, tmp_path):
    write_shard(tmp_path, "s", make_table(["a"]), PROVENANCE, form=form)
    write_manifest(tmp_path, ["s"], PROVENANCE, form=form)
    card = (tmp_path / "README.md").read_text()
    read = DatasetCard(card)  # by the client of the hub
    files = "data/*.parquet" if form == "parquet" else "data/*.boxes.tar"
    assert read.data.to_dict() == {
        "configs": [{"config_name": "default", "data_files": files}],
        "tags": ["ccrop-boxes"],
    }
    assert read.text.startswith("\n# Boxes of 1 images")
    for part in (
        "# Boxes of 1 images",
        '"name": "resnet18"',
        PROVENANCE.fingerprint,
        "load_dataset",
    ):
        assert part in card
    assert "torch" not in card  # versions differ between processes that finish at once


def test_a_card_that_somebody_wrote_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    write_shard(tmp_path, "s", make_table(["a"]), PROVENANCE)
    write_manifest(tmp_path, ["s"], PROVENANCE)
    assert (tmp_path / "README.md").read_text() == "mine"
