"""The commands of boxes from elsewhere, as their users call them."""

import json

import numpy as np
import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner
from made_images import boxes_by_key, folder_of
from PIL import Image

from ccrop_pipeline.boxset import BoxSet


def ccrop(*arguments, code=0):
    result = CliRunner().invoke(cli, ["boxes", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert code == 0 or result.stdout == ""
    return result.stdout if code == 0 else result.stderr


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two images, and the same box of the first in every form: x 10 to 20, y 5 to 15 of 40 x 20."""
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "photos", ["a.jpg", "b.jpg"])
    image = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 20}
    box = {"image_id": 1, "bbox": [10, 5, 10, 10]}
    (tmp_path / "coco.json").write_text(json.dumps({"images": [image], "annotations": [box]}))
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo/a.txt").write_text("3 0.375 0.5 0.25 0.5")
    (tmp_path / "b.csv").write_text("key,x_min,y_min,x_max,y_max\na.jpg,10,5,20,15\n")
    np.savez(tmp_path / "b.npz", a=[10, 5, 20, 15])
    (tmp_path / "masks").mkdir()
    mask = Image.new("L", (40, 20))
    mask.paste(1, (10, 5, 20, 15))
    mask.save(tmp_path / "masks/a.png")
    return tmp_path


FORMS = [
    ("--coco", "coco.json"),
    ("--yolo", "yolo"),
    ("--csv", "b.csv", "--pixels"),
    ("--npz", "b.npz", "--pixels"),
    ("--masks", "masks"),
]


@pytest.mark.parametrize("options", FORMS, ids=lambda options: options[0][2:])
def test_every_form_gives_the_same_boxes(options, place):
    out = ccrop("import", "photos", "out", *options)
    assert boxes_by_key(BoxSet.open(place / "out")) == {
        "a.jpg": ("ok", [0.25, 0.25, 0.5, 0.75], None),
        "b.jpg": ("empty", [0, 0, 1, 1], None),
    }
    assert "matched     1 image; 1 without an annotation, 0 annotations without an image" in out
    assert "taken       1 box, 0 of them clipped" in out
    assert "out: valid" in ccrop("validate", "out", "photos")


def test_import_prints_json_for_scripts(place):
    options = ("--coco", "coco.json", "--several", "keep:2", "--json")
    found = json.loads(ccrop("import", "photos", "out", *options))
    assert found["counts"] == {"ok": 1, "empty": 1, "unreadable": 0}
    assert found["import"] == {
        "matched": 1, "unannotated": 1, "without_image": 0,
        "boxes": 1, "clipped": 0, "dropped": 0, "misfits": 0, "unlisted": 0,
        "below": 0,
    }  # fmt: skip
    assert found["provenance"]["rule"].startswith("import coco, keep:2, sha256 ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "exactly one of --coco, --csv, --cvat, --fiftyone, --label-studio, --masks, --npz"),
        (("--coco", "coco.json", "--yolo", "yolo"), "exactly one"),
        (("--coco", "coco.json", "--several", "keep"), "keep:K"),
        (("--coco", "coco.json", "--pixels"), "--coco says itself"),
        (("--coco", "none.json"), "does not exist"),
        (("--yolo", "yolo", "--images", "coco.json"), "--images is for --coco"),
        (("--npz", "b.npz", "--radius", "3"), "--radius is for --csv"),
        (("--csv", "b.csv", "--radius", "0"), "0.0 is not in the range"),
        (("--yolo", "coco.json"), "is a file"),
    ],
)
def test_wrong_usage_ends_with_two(options, said, place):
    assert said in ccrop("import", "photos", "out", *options, code=2)
    assert not (place / "out").exists()


def test_bad_input_ends_with_one_and_writes_nothing(place):
    assert "--pixels" in ccrop("import", "photos", "out", "--csv", "b.csv", code=1)
    assert "Leave out --min-score" in ccrop(
        "import", "photos", "out", "--coco", "coco.json", "--min-score", ".5", code=1
    )
    (place / "results.json").write_text('[{"image_id": 139, "bbox": [10, 5, 10, 10]}]')
    assert "set --images to" in ccrop("import", "photos", "out", "--coco", "results.json", code=1)
    (place / "yolo/a.txt").rename(place / "yolo/z.txt")
    assert "none of the 1" in ccrop("import", "photos", "out", "--yolo", "yolo", code=1)
    assert not (place / "out").exists()


@pytest.mark.parametrize("name", ["centre", "full"])
def test_fixed_boxes(name, place):
    assert f"rule        {name}" in ccrop(name, "photos", "out")
    assert "valid" in ccrop("validate", "out", "photos")
    other = {"centre": "full", "full": "centre"}[name]
    assert "choose another folder" in ccrop(other, "photos", "out", code=1)


def test_export_and_import_give_the_same_box_set(place):
    ccrop("import", "photos", "first", "--coco", "coco.json", "--several", "keep:3")
    first = boxes_by_key(BoxSet.open(place / "first"))
    export = ("export", "first", "out.json", "--form", "coco")
    assert ccrop(*export) == "2 images in out.json (coco)\nwithout a box: 1 empty\n"
    ccrop("import", "photos", "again", "--coco", "out.json", "--several", "keep:3")
    assert boxes_by_key(BoxSet.open(place / "again")) == first
    assert "2 images" in ccrop(*export)  # complete already
    (place / "out.json").write_text("{}")
    assert "already there with other content" in ccrop(*export, code=1)
    assert json.loads(ccrop(*export, "--overwrite", "--json"))["images"] == 2


def test_export_of_whole_box_sets(place):
    ccrop("centre", "photos", "first")
    ccrop("export", "first", "second", "--form", "webdataset")
    ours, tars = (boxes_by_key(BoxSet.open(place / name)) for name in ("first", "second"))
    assert tars == {key.rpartition(".")[0]: boxes for key, boxes in ours.items()}
    ccrop("export", "first", "third", "--form", "parquet")
    assert boxes_by_key(BoxSet.open(place / "third")) == boxes_by_key(BoxSet.open(place / "first"))
    assert "single files" in ccrop(
        "export", "first", "third", "--form", "parquet", "--overwrite", code=2
    )
