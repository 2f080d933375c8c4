"""What is exported is read by others, and comes back exactly."""

import contextlib
import errno
import json
import os
import re
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_images import folder_of

from ccrop_pipeline.boxset import EMPTY, FULL_BOX, OK, UNREADABLE, Choices
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange import export_boxes, read_coco, read_csv, read_npz
from ccrop_pipeline.exchange.importing import in_shares
from tests.given_rows import box_set_of, rows_of

_edge = st.floats(0, 1, width=32)
_side = st.lists(_edge, min_size=2, max_size=2, unique=True).map(sorted)
_box = st.tuples(_side, _side).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))
_status = st.sampled_from([OK, OK, EMPTY, UNREADABLE])
_key = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=6)
_row = st.tuples(_status, st.lists(_box, min_size=1, max_size=3), st.tuples(*[st.integers(1)] * 2))


@st.composite
def tables(draw, several):
    names = draw(st.lists(_key, unique=True, max_size=6))
    rows = [draw(_row) for _ in names]
    boxes = [own if status == OK else [FULL_BOX] for status, own, _ in rows]
    choices = Choices.of([np.array(own if several else own[:1], np.float32) for own in boxes])
    sizes = [[min(side, 2**32 - 1) for side in size] for _, _, size in rows]
    status = [status for status, _, _ in rows]
    return rows_of(names, choices if several else choices.union(), sizes=sizes, status=status)


PAGE = (Path(__file__).parents[2] / "docs/import-export.md").read_text()
(LINES,) = re.findall(r"```python\n(import numpy as np\nimport pyarrow.*?)```", PAGE, re.DOTALL)
READERS = {"csv": partial(read_csv, pixels=False), "npz": partial(read_npz, pixels=False)}


@st.composite
def two_tables(draw, several):
    """One table or two: a key stands once in a box set, and a box set has choices or none."""
    first, second = draw(tables(several)), draw(tables(several))
    return [first] if set(first.keys) & set(second.keys) else [first, second]


def expect_boxes(annotations, parts, several):
    """That all images are there, and the boxes of those that are `ok`, to the last bit."""
    found = {key: annotations.read(key) for key in annotations.names}
    assert list(found) == [key for part in parts for key in part.keys]
    for part in parts:
        for row, key in enumerate(part.keys):
            shares = np.clip(in_shares(found[key], *part.sizes[row].tolist()), 0, 1)
            expected = part.choices.of_row(row) if several else part.boxes[row][None]
            expected = expected if part.status[row] == OK else expected[:0]
            assert shares.astype(np.float32).tolist() == expected.tolist()


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data(), several=st.booleans())
def test_boxes_come_back_exactly(data, several):
    parts = data.draw(two_tables(several))
    with tempfile.TemporaryDirectory() as name:
        box_set = box_set_of(Path(name, "boxes"), *parts)
        expect_boxes(read_coco(export_boxes(box_set, Path(name, "out"), "coco")), parts, several)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data(), several=st.booleans())
def test_the_lines_for_csv_and_npz_give_what_is_imported_exactly(data, several):
    parts = data.draw(two_tables(several))
    assume(any(part.keys for part in parts))
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        box_set_of(Path("boxes/first"), *parts)
        exec(compile(LINES, "docs/import-export.md", "exec"), {})
        for form, read in READERS.items():
            expect_boxes(read(Path(f"boxes.{form}")), parts, several=False)


def made(folder):
    """Two shards: two objects in the one image, none in the second, no image in the third."""
    rows = [[[0.25, 0.5, 0.5, 1], [0, 0, 0.125, 0.25]], [FULL_BOX], [FULL_BOX]]
    tables = []
    for number, (row, status) in enumerate(zip(rows, (OK, EMPTY, UNREADABLE), strict=True)):
        choices = Choices.of([np.array(row, np.float32)])
        tables.append(rows_of([f"x/{number}"], choices, sizes=(40, 20), status=status))
    return box_set_of(folder, *tables)


def test_coco_is_what_detectors_read(tmp_path):
    path = export_boxes(made(tmp_path / "b"), tmp_path / "c.json", "coco", suffix=".jpg")
    data = json.loads(path.read_text())
    assert data["categories"] == [{"id": 1, "name": "content"}]
    assert [(i["id"], i["file_name"], i["width"], i["height"]) for i in data["images"]] == [
        (number + 1, f"x/{number}.jpg", 40, 20) for number in range(3)
    ]
    one, two = data["annotations"]
    assert one == {
        "id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 10, 10], "area": 100,
        "iscrowd": 0,
    }  # fmt: skip
    assert (two["id"], two["image_id"], two["bbox"], two["area"]) == (2, 1, [0, 0, 5, 5], 25)


def test_csv_and_npz_hold_a_row_an_image(tmp_path, monkeypatch):
    made(tmp_path / "boxes/first")
    monkeypatch.chdir(tmp_path)
    exec(compile(LINES, "docs/import-export.md", "exec"), {})
    assert Path("boxes.csv").read_text().splitlines() == [
        '"key","x_min","y_min","x_max","y_max","width","height","status"',
        '"x/0",0,0,0.5,1,40,20,"ok"',
        '"x/1",0,0,1,1,40,20,"empty"',
        '"x/2",0,0,1,1,40,20,"unreadable"',
    ]
    with np.load("boxes.npz", allow_pickle=False) as arrays:
        assert arrays["keys"].tolist() == ["x/0", "x/1", "x/2"]
        assert arrays["boxes"].dtype == np.float32
        assert arrays["boxes"].tolist() == [[0, 0, 0.5, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
        assert arrays["status"].tolist() == ["ok", "empty", "unreadable"]


def test_hugging_face_datasets_join_the_boxes_to_the_images(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    root = folder_of(tmp_path / "photos", ["x/0.jpg", "x/1.jpg", "x/2.jpg"])
    path = export_boxes(made(tmp_path / "b"), root, "hf", suffix=".jpg")
    assert path == root / "metadata.parquet"
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(root), split="train", cache_dir=str(tmp_path / "cache")
    )
    objects = {(*row["image"].size, i): row["objects"] for i, row in enumerate(found)}
    assert list(objects.values()) == [
        {"bbox": [[10, 10, 10, 10], [0, 0, 5, 5]], "categories": [0, 0]},
        {"bbox": [], "categories": []},
        {"bbox": [], "categories": []},
    ]
    assert {key[:2] for key in objects} == {(40, 20)}
    assert pq.read_table(path)["file_name"].to_pylist() == ["x/0.jpg", "x/1.jpg", "x/2.jpg"]


@pytest.mark.parametrize("form", ["coco", "hf"])
def test_a_file_is_replaced_only_when_told(form, tmp_path):
    box_set = made(tmp_path / "b")
    out = tmp_path / "out"
    path = out / "metadata.parquet" if form == "hf" else out
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    with pytest.raises(CcropError, match=r"other content\. Choose another name"):
        export_boxes(box_set, out, form)
    assert path.read_text() == "precious"
    export_boxes(box_set, out, form, overwrite=True)
    first = path.read_bytes()
    export_boxes(box_set, out, form, overwrite=True)
    assert path.read_bytes() == first != b"precious"
    # As after a kill in its very last steps: the file is complete, and nothing is left to do.
    assert export_boxes(box_set, out, form).read_bytes() == first
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("form", ["coco", "hf"])
def test_a_file_is_kept_where_the_disk_is_full(form, tmp_path, monkeypatch):
    box_set, out = made(tmp_path / "b"), tmp_path / "out"
    path = export_boxes(box_set, out, form)
    path.write_text("precious")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)  # where a disk that writes late tells of it
    with pytest.raises(OSError, match=f"{path.name} cannot be written: no space"):
        export_boxes(box_set, out, form, overwrite=True)
    assert path.read_text() == "precious"
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]


def test_a_folder_is_no_file_and_a_form_has_to_be_known(tmp_path):
    box_set = made(tmp_path / "b")
    with pytest.raises(CcropError, match="is a folder"):
        export_boxes(box_set, tmp_path, "coco", overwrite=True)
    with pytest.raises(ValueError, match="xml"):
        export_boxes(box_set, tmp_path / "x", "xml")


@pytest.mark.parametrize("form", ["coco", "hf"])
def test_an_empty_box_set_is_exported(form, tmp_path):
    path = export_boxes(box_set_of(tmp_path / "b"), tmp_path / "out", form)
    if form == "coco":
        assert list(read_coco(path).names) == []
    else:
        assert pq.read_table(path).num_rows == 0
