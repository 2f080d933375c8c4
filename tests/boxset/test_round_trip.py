"""What is written is read back to the last bit, by this package and by others."""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from table_strategies import PROVENANCE, assert_same, make_table, tables

from ccrop_pipeline.boxset import (
    STATUSES,
    BoxSet,
    BoxTable,
    convert,
    validate,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.errors import CcropError

ROOT = Path(__file__).parents[2]
FORMS = ["parquet", "webdataset"]
few = settings(max_examples=40, deadline=None)


@pytest.mark.slow
@few
@given(tables(), st.sampled_from(FORMS))
def test_round_trip(table: BoxTable, form: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "boxes")
        write_shard(folder, "train-0", table, PROVENANCE, form=form)
        manifest = write_manifest(folder, ["train-0"], PROVENANCE, form=form)
        assert validate(folder) == []
        boxes = BoxSet.open(folder)
        assert boxes.manifest == manifest
        assert boxes.manifest.provenance == PROVENANCE
        assert manifest.statistics.counts == {
            s: (table.status == i).sum() for i, s in enumerate(STATUSES)
        }
        assert_same(boxes.read("train-0"), table)
        assert boxes.read("train-0", heatmaps=False).heatmaps is None


@pytest.mark.slow
@few
@given(tables(), st.sampled_from(FORMS))
def test_bytes_repeat_and_survive_two_conversions(table: BoxTable, form: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        first, second, third = (Path(name, folder) for folder in "abc")
        write_shard(first, "s", table, PROVENANCE, form=form)
        write_manifest(first, ["s"], PROVENANCE, form=form)
        convert(first, second, form=FORMS[1 - FORMS.index(form)])
        convert(second, third, form=form)
        assert validate(second) == []
        assert contents(first) == contents(third)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.*")}


def test_every_float16_survives_its_text(tmp_path: Path) -> None:
    bits = np.array([*range(0x3C01), 0x8000], np.uint16)
    table = make_table(["k"])
    table.heatmaps = bits.view(np.float16).reshape(1, 2, -1)
    write_shard(tmp_path, "s", table, PROVENANCE, form="webdataset")
    write_manifest(tmp_path, ["s"], PROVENANCE, form="webdataset")
    assert_same(BoxSet.open(tmp_path).read("s"), table)


def test_heatmap_text_is_the_shortest(tmp_path: Path) -> None:
    table = make_table(["k"])
    table.heatmaps = np.array([[[0.1, 1 / 3, 1.0]]], np.float16)
    write_shard(tmp_path, "s", table, PROVENANCE, form="webdataset")
    with tarfile.open(tmp_path / "data/s.boxes.tar") as tar:
        text = tar.extractfile("k.box.json").read().decode()
    assert '"heatmap":[[0.1,0.3333,1.0]]' in text


def test_plain_pyarrow_sees_the_columns_of_the_document(tmp_path: Path) -> None:
    table = make_table(["café", "b"])
    table.status[1] = 1
    table.boxes[1] = (0, 0, 1, 1)
    write_shard(tmp_path, "s", table, PROVENANCE)
    first, second = pq.read_table(tmp_path / "data/s.parquet").to_pylist()
    assert first["key"] == "café"
    assert [first[c] for c in ("x_min", "y_min", "x_max", "y_max")] == table.boxes[0].tolist()
    assert [first["width"], first["height"]] == table.sizes[0].tolist()
    assert [first["status"], second["status"]] == ["ok", "empty"]
    assert first["image_hash"] == int(table.image_hash[0])
    assert first["heatmap"] == table.heatmaps[0].tolist()
    metadata = pq.read_metadata(tmp_path / "data/s.parquet")
    assert metadata.metadata[b"ccrop"].decode() == PROVENANCE.text
    assert json.loads(metadata.metadata[b"ccrop_libraries"]) == PROVENANCE.libraries
    assert metadata.row_group(0).column(1).compression == "ZSTD"
    kinds = [str(metadata.schema.column(i).logical_type) for i in range(len(metadata.schema))]
    assert kinds[0] == kinds[8] == "String"
    assert kinds[-1] == "Float16"


@pytest.mark.parametrize(
    ("rows", "groups"),
    [
        (0, []),
        (10, [10]),
        (65_536, [65_536]),
        (65_537, [32_769, 32_768]),
        (70_001, [35_001, 35_000]),
    ],
)
def test_row_groups_are_even_and_not_too_large(
    rows: int, groups: list[int], tmp_path: Path
) -> None:
    table = make_table([str(i) for i in range(rows)], heatmaps=False)
    write_shard(tmp_path, "s", table, PROVENANCE)
    metadata = pq.read_metadata(tmp_path / "data/s.parquet")
    found = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert [n for n in found if n] == groups


def test_webdataset_yields_one_sample_a_key(tmp_path: Path) -> None:
    keys = ["a", "n01.x/img-1", "café 図", "long/" + "k" * 300, "__x__", "z%2E"]
    table = make_table(keys)
    write_shard(tmp_path, "s", table, PROVENANCE, form="webdataset")
    url = str(tmp_path / "data/s.boxes.tar")
    samples = list(wds.WebDataset(url, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == keys
    boxes = [sample["box.json"] for sample in samples]
    assert [box["key"] for box in boxes] == keys
    assert [[b["x_min"], b["y_min"], b["x_max"], b["y_max"]] for b in boxes] == table.boxes.tolist()
    assert [int(box["image_hash"], 16) for box in boxes] == table.image_hash.tolist()
    with tarfile.open(url) as tar:
        assert tar.pax_headers["ccrop"] == PROVENANCE.text
        assert json.loads(tar.pax_headers["ccrop_libraries"]) == PROVENANCE.libraries
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in tar} == {(0, 0, 0, "")}


def test_webdataset_reads_an_empty_shard(tmp_path: Path) -> None:
    for name, keys in (("s-0", []), ("s-1", ["a"])):
        write_shard(tmp_path, name, make_table(keys), PROVENANCE, form="webdataset")
    urls = [str(tmp_path / f"data/s-{i}.boxes.tar") for i in range(2)]
    samples = list(wds.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["a"]


def test_keys_of_a_folder_are_kept_as_its_tars_have_them(tmp_path: Path) -> None:
    keys = ["img.jpg", "a/b.c/img.JPG", ".hidden", "v1.2/a.b.png", "/abs/x"]
    table = make_table(keys)
    write_shard(tmp_path, "s", table, PROVENANCE, form="webdataset")
    samples = wds.WebDataset(str(tmp_path / "data/s.boxes.tar"), shardshuffle=False).decode()
    found = [(sample["__key__"], sample["box.json"]["key"]) for sample in samples]
    expected = ["img", "a/b.c/img", "_hidden", "v1.2/a_b", "abs/x"]
    assert found == [(key, key) for key in expected]
    assert table.keys == keys


@pytest.mark.parametrize("key", ["__meta__/img", "__meta__/a/img.jpg"])
def test_keys_that_webdataset_would_change_are_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(CcropError, match=r"B016 s.boxes.tar row 0.*\n.*Parquet"):
        write_shard(tmp_path, "s", make_table([key]), PROVENANCE, form="webdataset")
    assert list(tmp_path.iterdir()) == []
    # The oracle: written all the same, WebDataset indeed gives another key or none.
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(key + ".box.json"))
    samples = wds.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False, empty_check=False)
    assert [(s["__key__"], "box.json" in s) for s in samples] != [(key, True)]


def test_convert_resumes_and_refuses_other_boxes(tmp_path: Path) -> None:
    first, out = tmp_path / "first", tmp_path / "out"
    for number in range(2):
        write_shard(first, f"s-{number}", make_table([f"k{number}"]), PROVENANCE)
    write_manifest(first, ["s-0", "s-1"], PROVENANCE)
    write_shard(out, "s-0", make_table(["k0"]), PROVENANCE, form="webdataset")
    assert convert(first, out, form="webdataset").rows == 2
    assert convert(first, out, form="webdataset") == BoxSet.open(out).manifest
    with pytest.raises(CcropError, match="form: webdataset -> parquet"):
        convert(first, out, form="parquet")
    with pytest.raises(ValueError, match="csv"):
        convert(first, tmp_path / "other", form="csv")


def test_manifest_names_sizes_and_hashes_of_the_files(tmp_path: Path) -> None:
    write_shard(tmp_path, "s", make_table(["k"]), PROVENANCE)
    write_manifest(tmp_path, ["s"], PROVENANCE)
    data = (tmp_path / "data/s.parquet").read_bytes()
    (entry,) = json.loads((tmp_path / "manifest.json").read_text())["shards"]
    digest = hashlib.sha256(data).hexdigest()
    assert entry == {
        "name": "s", "file": "data/s.parquet", "rows": 1, "bytes": len(data), "sha256": digest
    }  # fmt: skip


@pytest.mark.slow
def test_the_example_reads_a_box_set_without_this_package(tmp_path: Path) -> None:
    table = make_table(["one"])
    table.boxes[:] = (0.25, 0.0, 0.75, 0.5)
    table.sizes[:] = (400, 300)
    write_shard(tmp_path, "s", table, PROVENANCE)
    write_manifest(tmp_path, ["s"], PROVENANCE)
    program = ROOT / "examples/read_boxes_with_pyarrow.py"
    assert "ccrop_pipeline" not in program.read_text()
    run = [sys.executable, "-I", str(program), str(tmp_path)]
    output = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "resnet18 layer4" in output
    assert "1, mean share of the image 0.250" in output
    assert "one: x 100.0 to 300.0, y 0.0 to 150.0" in output


def test_importing_the_format_needs_neither_torch_nor_the_rest() -> None:
    code = (
        "import sys, ccrop_pipeline.boxset; print([m for m in sys.modules if m in "
        "('torch', 'webdataset', 'xxhash', 'lightly', 'PIL') or (m.startswith('ccrop_pipeline.') "
        "and not m.startswith(tuple('ccrop_pipeline.' + part for part in "
        "('boxset', 'base', 'errors'))))])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "[]"


def test_a_box_shard_lies_beside_its_images(tmp_path: Path) -> None:
    data = ROOT / "../shared/data/clothing-webdataset"
    shards = sorted(data.rglob("*.tar"))[:2]
    if not shards:
        pytest.skip("the photographs of the shared data are not here")
    for number, shard in enumerate(shards):
        images = wds.WebDataset(str(shard), shardshuffle=False)
        keys = [image["__key__"] for image in images]
        name = shard.stem
        write_shard(tmp_path, name, make_table(keys, number), PROVENANCE, form="webdataset")
        boxes = wds.WebDataset(
            str(tmp_path / f"data/{name}.boxes.tar"), shardshuffle=False
        ).decode()
        assert len(keys) > 10
        assert [box["box.json"]["key"] for box in boxes] == keys
    write_manifest(tmp_path, [shard.stem for shard in shards], PROVENANCE, form="webdataset")


def test_a_key_that_can_be_written_can_be_read(tmp_path: Path) -> None:
    """1,024 digits in a row are as many as the reader of tars takes."""
    table = make_table(["x/" + "7" * 1024])
    write_shard(tmp_path, "s", table, PROVENANCE, form="webdataset")
    write_manifest(tmp_path, ["s"], PROVENANCE, form="webdataset")
    assert validate(tmp_path) == []
    with pytest.raises(CcropError, match=r"B016 more.boxes.tar row 0.*\n.*Parquet") as caught:
        write_shard(tmp_path, "more", make_table(["7" * 1025]), PROVENANCE, form="webdataset")
    assert len(str(caught.value)) < 500
    write_shard(tmp_path / "p", "s", make_table(["7" * 1025]), PROVENANCE)
