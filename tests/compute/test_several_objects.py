"""Box sets with a box for each object of an image."""

import json
from statistics import fmean

import numpy as np
import pytest
import torch
from ccrop_cli.main import cli
from click.testing import CliRunner

from ccrop_pipeline.boxset import EMPTY, OK, UNREADABLE, BoxSet, validate
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.compute.rethreshold import rethreshold
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import BoxSetError
from ccrop_pipeline.images import Sample, Scenes, open_source, pack
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer, build_backbone, object_boxes
from ccrop_pipeline.report import contact_sheet

SETTINGS = {"batch_size": 7, "threads": 1}
THREE = BoxRule(0.5, objects=3)


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(build_backbone("small"), "layer2", 64, name="small")


def localizer(name: str = "sum", rule: BoxRule = THREE) -> Localizer:
    return Localizer(encoder(), name, rule)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Eleven images and one that cannot be read, in three shards."""
    folder = tmp_path_factory.mktemp("objects")
    samples = [*Scenes(20, size=48).read("train-000000")][:11]
    samples.insert(4, Sample("bad", b"\xff\xd8broken", None))
    pack(samples, folder / "tars", max_images=5)
    return open_source(folder / "tars")


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
@pytest.mark.parametrize("name", ["sum", "lost", "tokencut"])
def test_choices_are_the_boxes_of_the_objects(source, tmp_path, name, form):
    box_set = compute_boxes(source, localizer(name), tmp_path / "boxes", form=form, **SETTINGS)
    assert validate(box_set.folder) == []
    several = 0
    for _, table in box_set.tables():
        heatmaps = torch.from_numpy(table.heatmaps.copy())
        expected, found = object_boxes(heatmaps, THREE, 64, masks=name != "sum")
        for row, status in enumerate(table.status):
            assert table.choices.of_row(row).tolist() == expected.of_row(row).tolist()
            assert status == (
                UNREADABLE if table.keys[row] == "bad" else OK if found[row] else EMPTY
            )
            if status != OK:
                assert table.choices.of_row(row).tolist() == [[0, 0, 1, 1]]
        low, high = expected.union()[:, :2], expected.union()[:, 2:]
        np.testing.assert_array_equal(table.boxes, np.concatenate([low, high], axis=1))
        several += (expected.counts > 1).sum()
    assert several > 2


@pytest.mark.parametrize("rule", [THREE, BoxRule(0.7, objects=2, margin=0.1), BoxRule(0.4)])
def test_files_of_rethreshold_are_those_of_computing(source, tmp_path, rule):
    for before in (BoxRule(0.1), BoxRule(0.6, objects=4)):
        first = compute_boxes(
            source, localizer(rule=before), tmp_path / f"first-{before.objects}", **SETTINGS
        )
        anew = compute_boxes(source, localizer(rule=rule), tmp_path / "anew", **SETTINGS)
        ours = rethreshold(first, tmp_path / f"ours-{before.objects}", rule)
        assert contents(ours.folder) == contents(anew.folder)


def test_masks_hold_the_objects_that_were_asked_for(source, tmp_path):
    two = BoxRule(0.5, objects=2)
    box_set = compute_boxes(source, localizer("lost", two), tmp_path / "two", **SETTINGS)
    with pytest.raises(BoxSetError, match="compute the boxes again for another number"):
        rethreshold(box_set, tmp_path / "three", THREE)
    assert not (tmp_path / "three").exists()
    wider = BoxRule(0.5, objects=2, margin=0.2)
    anew = compute_boxes(source, localizer("lost", wider), tmp_path / "anew", **SETTINGS)
    assert contents(rethreshold(box_set, tmp_path / "ours", wider).folder) == contents(anew.folder)


def test_a_box_an_image_leaves_the_provenance_as_it_was(source, tmp_path):
    one = compute_boxes(source, localizer(rule=BoxRule(0.5)), tmp_path / "one", **SETTINGS)
    assert "objects" not in one.manifest.provenance.text
    assert all(table.choices is None for _, table in one.tables())
    three = compute_boxes(source, localizer(), tmp_path / "three", **SETTINGS)
    assert json.loads(three.manifest.provenance.text)["localizer"]["objects"] == 3
    assert BoxSet.open(tmp_path / "three").manifest.provenance.localizer.objects == 3


def ccrop(*line) -> str:
    result = CliRunner().invoke(cli, [str(part) for part in line])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_says_how_many(source, tmp_path):
    model = tmp_path / "model.py"
    model.write_text(
        "import torch\n"
        "from ccrop_pipeline.localize import Encoder, build_backbone\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    return Encoder(build_backbone('small'), 'layer2', 64, name='small')\n"
    )
    line = ["boxes", "compute", source.location, tmp_path / "out", "--model", f"{model}:build"]
    line += ["--map", "sum", "--threshold", "0.5", "--objects", "3", "--device", "cpu"]
    result = CliRunner().invoke(cli, [str(part) for part in line])
    assert result.exit_code == 0, result.output
    assert "threshold 0.5; up to 3 objects an image" in result.stdout
    keys = [key for _, table in BoxSet.open(tmp_path / "out").tables() for key in table.keys]
    numbers = [len(BoxSet.open(tmp_path / "out").choices([key]).boxes) for key in keys]
    shown = json.loads(ccrop("boxes", "info", tmp_path / "out", "--json"))["objects"]
    assert shown == {str(number): numbers.count(number) for number in sorted({*numbers})}
    assert f"\nobjects     {fmean(numbers):.1f} an image in the mean: 1 in " in result.stdout
    line = ["boxes", "rethreshold", tmp_path / "out", tmp_path / "one", "--objects", "1"]
    assert CliRunner().invoke(cli, [str(part) for part in line]).exit_code == 0
    assert BoxSet.open(tmp_path / "one").choices(["bad"]) is None
    assert json.loads(ccrop("boxes", "info", tmp_path / "one", "--json"))["objects"] is None
    line = ["boxes", "rethreshold", tmp_path / "out", tmp_path / "mass", "--mass", "0.5"]
    result = CliRunner().invoke(cli, [str(part) for part in line])
    assert result.exit_code == 2
    assert "objects is 3" in result.stderr


def test_the_contact_sheet_shows_every_box(source, tmp_path):
    box_set = compute_boxes(source, localizer(), tmp_path / "boxes", **SETTINGS)
    table = box_set.read(source.shards[0])
    row = int(np.argmax(table.choices.counts))
    assert table.choices.counts[row] > 1
    sheet = contact_sheet(box_set, source, CropParams(), count=row + 1, across=row + 1)
    pixels, side = np.asarray(sheet), 144
    # Four cells of 150 pixels an image and a gap; a margin of 8, and 44 pixels of title.
    left, top = 8 + row * (4 * 150 + 12), 44
    cell = pixels[top : top + side, left : left + side]
    red = (cell == (255, 70, 50)).all(axis=2)
    for x_min, y_min, x_max, y_max in table.choices.of_row(row) * side:
        x_min, y_min, x_max, y_max = (round(float(e)) for e in (x_min, y_min, x_max, y_max))
        xs, ys = slice(int(x_min) + 2, int(x_max) - 2), slice(int(y_min) + 2, int(y_max) - 2)
        assert red[int(y_min), xs].all()
        assert red[ys, int(x_min)].all()
        assert red[int(y_max) - 1, xs].all()
        assert red[ys, int(x_max) - 1].all()
