import json

import numpy as np
import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner
from made_boxes import box_set, table
from PIL import Image

from ccrop_pipeline.boxset import EMPTY, OK, UNREADABLE
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import BoxSetError
from ccrop_pipeline.images import open_source
from ccrop_pipeline.report import diff
from ccrop_pipeline.report.gallery import gallery

FULL, LEFT, RIGHT, UPPER = [0, 0, 1, 1], [0, 0, 0.5, 1], [0.5, 0, 1, 1], [0, 0, 1, 0.5]


@pytest.fixture
def pair(tmp_path):
    before = [
        table(["a", "b", "c"], [FULL, LEFT, LEFT], [EMPTY, OK, OK], [1, 2, 3]),
        table(["d", "e", "gone"], [UPPER, FULL, FULL], [OK, UNREADABLE, OK], [4, 5, 6]),
    ]
    after = [
        table(["new", "e", "d"], [FULL, UPPER, UPPER], OK, [9, 0, 4]),
        table(["c", "b", "a"], [RIGHT, LEFT, LEFT], OK, [3, 77, 1]),
    ]
    return box_set(tmp_path / "before", before), box_set(tmp_path / "after", after)


def test_images_are_joined_by_key_whatever_the_shards(pair):
    found = diff(*pair)
    assert (found.both, found.only_before, found.only_after) == (5, 1, 1)
    assert found.examples == ("gone", "new")
    assert found.images_changed == 1  # b; the hash of e is not known any more
    assert found.identical == 2  # b and d
    # a: full against a half; b: the same; c: halves that only touch; d: the same; e: a half.
    assert found.mean_iou == pytest.approx((0.5 + 1 + 0 + 1 + 0.5) / 5)
    assert found.deciles[0] == 0
    assert found.deciles[5] == 0.5
    assert found.deciles[10] == 1
    assert found.histogram == (1, 0, 0, 0, 2, 0, 0, 0, 0, 2)
    assert found.status_changes == {"empty -> ok": 1, "unreadable -> ok": 1}
    assert [(mover.key, mover.iou) for mover in found.movers] == [("c", 0), ("a", 0.5), ("e", 0.5)]
    assert (found.movers[0].before, found.movers[0].after) == (tuple(LEFT), tuple(RIGHT))
    assert [mover.key for mover in diff(*pair, movers=1).movers] == ["c"]


def test_a_name_that_shards_share_finds_no_box_of_tars_from_either(tmp_path):
    """Whether rows are met all at once, by shards or one by one."""
    for name in ("1.jpg", "1.png", "2.jpg"):
        Image.new("RGB", (48, 48)).save(tmp_path / name)
    tables = [table(["1.jpg", "2.jpg"], [LEFT, LEFT]), table(["1.png"], [LEFT])]
    folder = box_set(tmp_path / "folder", tables)
    tars = box_set(tmp_path / "tars", [table(["1", "2"], [RIGHT, UPPER])])
    images = open_source(tmp_path)
    assert [mover.key for mover in diff(folder, tars).movers] == ["2.jpg"]
    shown = gallery(folder, images, crop=CropParams(), against=tars).items
    assert {item["key"]: item.get("other") for item in shown} == {
        "1.jpg": None,
        "2.jpg": UPPER,
        "1.png": None,
    }
    with pytest.raises(BoxSetError, match="none of these images"):
        folder.show(images, ["1.jpg"], against=tars)


def test_a_set_does_not_differ_from_itself(pair):
    found = diff(pair[0], pair[0])
    assert (found.both, found.identical, found.mean_iou, found.images_changed) == (6, 6, 1, 0)
    assert (found.only_before, found.only_after, found.movers, found.status_changes) == (
        0,
        0,
        (),
        {},
    )


def test_iou_of_random_boxes_by_loops(tmp_path):
    random = np.random.default_rng(0)
    one, other = np.sort(random.random((2, 200, 2, 2), np.float32), axis=2).reshape(2, 200, 4)
    keys = [f"k{number}" for number in range(200)]
    found = diff(
        box_set(tmp_path / "one", [table(keys, one)]),
        box_set(tmp_path / "other", [table(keys, other)]),
        movers=200,
    )
    by_key = {mover.key: mover.iou for mover in found.movers}
    for key, a, b in zip(keys, one.tolist(), other.tolist(), strict=True):
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        shared = max(width, 0) * max(height, 0)
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
        assert by_key[key] == pytest.approx(shared / (sum(areas) - shared))
    assert list(by_key.values()) == sorted(by_key.values())


def test_sets_of_other_images_share_nothing(tmp_path):
    one = box_set(tmp_path / "one", [table("ab", [FULL, FULL])])
    other = box_set(tmp_path / "other", [table("cd", [FULL, FULL])])
    found = diff(one, other)
    assert (found.both, found.mean_iou, found.deciles, found.movers) == (0, None, (), ())
    result = CliRunner().invoke(cli, ["boxes", "diff", str(one.folder), str(other.folder)])
    assert "0 in both, 2 in the first only, 2 in the second only" in result.stdout


def test_the_command(pair):
    folders = [str(one.folder) for one in pair]
    result = CliRunner().invoke(cli, ["boxes", "diff", *folders, "--movers", "2"])
    assert result.exit_code == 0
    assert "images      5 in both, 1 in the first only, 1 in the second only" in result.stdout
    assert "boxes       2 identical, mean IoU 0.600" in result.stdout
    assert "status      empty -> ok: 1" in result.stdout
    assert result.stdout.splitlines()[-3:-1] == [
        "moved       IoU    x_min y_min x_max y_max  ->  x_min y_min x_max y_max  key",
        "            0.000  0.000 0.000 0.500 1.000  ->  0.500 0.000 1.000 1.000  c",
    ]
    result = CliRunner().invoke(cli, ["boxes", "diff", *folders, "--json"])
    answer = json.loads(result.stdout)
    assert (answer["both"], answer["movers"][0]["key"]) == (5, "c")
