"""Croissant metadata, checked and read by mlcroissant."""

import hashlib
import json
from urllib.parse import unquote

import numpy as np
import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner
from datasets import load_dataset

from ccrop_pipeline.boxset import (
    FULL_BOX,
    BoxSet,
    Choices,
    convert,
    strangers,
    validate,
)
from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.exchange import export_boxes
from tests.given_rows import box_set_of, rows_of

SHARDS = {"s-0": ["a", "ü b.jpg"], "s 1%ü": [], "t": ["c/d"]}


def table(keys, seed, several):
    random, n = np.random.default_rng(seed), len(keys)
    rows = [np.float32([FULL_BOX, [0, 0.25, 0.5, 1 / 3]][: 1 + i % 2]) for i in range(n)]
    choices = Choices.of(rows)
    return rows_of(
        keys,
        choices if several else choices.union(),
        sizes=random.integers(1, 9, (n, 2)),
        orientation=6,
        hashes=random.integers(1 << 63, 1 << 64, n, np.uint64),
        heatmaps=random.random((n, 2, 3)).astype(np.float16) if several else None,
    )


@pytest.fixture(params=["with all columns", "plain"])
def box_set(request, tmp_path):
    several = request.param != "plain"
    tables = [table(keys, seed, several) for seed, keys in enumerate(SHARDS.values())]
    return box_set_of(tmp_path / "boxes", *tables, names=[*SHARDS])


def test_mlcroissant_finds_no_fault_and_reads_every_column(box_set, capsys):
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    path = export_boxes(box_set, box_set.folder, "croissant")
    assert path == box_set.folder / "croissant.json"
    dataset = mlcroissant.Dataset(jsonld=path)
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    # What nobody but its owner can say of a data set.
    own = ("citeAs", "datePublished", "license", "version")
    assert len(issues.warnings) == len(own), issues.warnings
    assert all(any(name in warning for name in own) for warning in issues.warnings)
    found = {record["boxes/key"].decode(): record for record in dataset.records("boxes")}
    rows = list(box_set)
    assert sorted(found) == sorted(row.key for row in rows)
    heatmaps = {
        key: None if own.heatmaps is None else own.heatmaps[at].tolist()
        for _, own in box_set.tables()
        for at, key in enumerate(own.keys)
    }
    for row in rows:
        record = found[row.key]
        box = [record[f"boxes/{edge}"] for edge in ("x_min", "y_min", "x_max", "y_max")]
        assert tuple(box) == row.box
        assert {type(edge) for edge in box} == {np.float32}
        numbers = [record[f"boxes/{name}"] for name in ("width", "height", "orientation")]
        assert numbers == [row.width, row.height, 6]
        assert record["boxes/image_hash"] == row.image_hash
        assert record["boxes/status"] == b"ok"
        if row.choices is None:
            assert len(record) == 10
        else:
            assert tuple(map(tuple, record["boxes/choices"])) == row.choices
            assert record["boxes/heatmap"] == heatmaps[row.key]


def test_it_lists_every_file_with_its_hash_and_every_column(box_set):
    data = json.loads(export_boxes(box_set, box_set.folder, "croissant").read_text())
    *files, shards = data["distribution"]
    assert shards["includes"] == "data/*.parquet"
    assert [unquote(file["contentUrl"]) for file in files] == [
        "manifest.json",
        *(f"data/{name}.parquet" for name in SHARDS),
    ]
    for file in files:
        content = (box_set.folder / unquote(file["contentUrl"])).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["contentSize"] == f"{len(content)} B"
    import pyarrow.parquet as pq

    schema = pq.read_schema(box_set.folder / "data/s-0.parquet")
    fields = {field["name"]: field for field in data["recordSet"][0]["field"]}
    assert list(fields) == schema.names
    types = {
        "string": "sc:Text", "float": "cr:Float32", "uint32": "cr:UInt32", "uint8": "cr:UInt8",
        "uint64": "cr:UInt64", "dictionary<values=string, indices=int8, ordered=0>": "sc:Text",
    }  # fmt: skip
    for name in schema.names[:10]:
        assert fields[name]["dataType"] == types[str(schema.field(name).type)]
    shapes = [fields[name].get("arrayShape") for name in schema.names[10:]]
    assert shapes == ["2,3", "-1,4"][: len(shapes)]


def test_a_box_set_with_it_is_as_valid_and_replaceable_as_before(box_set):
    export_boxes(box_set, box_set.folder, "croissant")
    assert validate(box_set.folder) == []
    assert len(BoxSet.open(box_set.folder)) == 3
    assert strangers(box_set.folder) == []
    cache = str(box_set.folder.parent / "cache")
    assert load_dataset(str(box_set.folder), split="train", cache_dir=cache).num_rows == 3


def test_it_is_written_to_the_box_set_itself_and_describes_parquet(box_set, tmp_path):
    with pytest.raises(SettingError, match="write it to the folder of the box set itself"):
        export_boxes(box_set, tmp_path / "elsewhere", "croissant")
    with pytest.raises(SettingError, match="of the box set itself"):
        export_boxes(BoxSet("s3://bucket/boxes", box_set.manifest), "boxes", "croissant")
    run = lambda *words: CliRunner().invoke(cli, ["boxes", "export", *map(str, words)])  # noqa: E731
    done = run(box_set.folder, box_set.folder, "--form", "croissant")
    assert done.stdout == f"3 images in {box_set.folder}/croissant.json (croissant)\n"
    refused = run(box_set.folder, box_set.folder, "--form", "croissant", "--upright")
    assert (refused.exit_code, "are for other tools" in refused.stderr) == (2, True)


def test_the_webdataset_form_is_refused(tmp_path):
    box_set_of(tmp_path / "a", table(["a"], 0, several=False))
    convert(tmp_path / "a", tmp_path / "b", form="webdataset")
    with pytest.raises(SettingError, match="Export the box set as parquet first"):
        export_boxes(BoxSet.open(tmp_path / "b"), tmp_path / "b", "croissant")
    assert not (tmp_path / "b/croissant.json").exists()
