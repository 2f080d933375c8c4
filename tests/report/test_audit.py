import json
import re

import numpy as np
import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner
from made_boxes import box_set, located, provenance, table

from ccrop_pipeline.boxset import EMPTY, OK, UNREADABLE, BoxSet
from ccrop_pipeline.localize import BoxRule
from ccrop_pipeline.report import audit
from ccrop_pipeline.training.metrics import box_metrics


def squares(*areas: float) -> list[list[float]]:
    return [[0, 0, area**0.5, area**0.5] for area in areas]


def test_figures_are_those_of_the_boxes(tmp_path):
    boxes = squares(0.05, 0.1, 0.35, 0.95, 1, 1, 1)
    status = [OK] * 5 + [EMPTY, UNREADABLE]
    parts = [table("abc", boxes[:3], status[:3]), table("defg", boxes[3:], status[3:])]
    found = audit(box_set(tmp_path, parts))
    assert found.images == 7
    assert found.full == pytest.approx(3 / 7)
    assert found.nearly_full == pytest.approx(4 / 7)
    assert (found.empty, found.unreadable) == (pytest.approx(1 / 7), pytest.approx(1 / 7))
    assert found.mean_area == pytest.approx((0.05 + 0.1 + 0.35 + 0.95 + 3) / 7)
    assert sum(found.area_histogram) == 7
    assert found.area_histogram[3] == 1
    assert found.area_histogram[9] == 4
    assert found.area_histogram[0] + found.area_histogram[1] == 2


def test_info_and_audit_round_the_mean_area_alike(tmp_path):
    # To four digits first, and then to a tenth of a percent, it would be 95.8 %.
    made = box_set(tmp_path, [table("a", [[0, 0, 0.95749, 1]])])
    for command, line in (("info", "boxes       mean area"), ("audit", "areas       mean")):
        result = CliRunner().invoke(cli, ["boxes", command, str(made.folder)])
        assert f"{line} 95.7%" in result.stdout


def test_what_is_known_of_a_finished_set_is_not_read_again(tmp_path):
    made = box_set(tmp_path, [table("ab", squares(0.25, 0.5))])
    for shard in (tmp_path / "data").iterdir():
        shard.write_bytes(b"?" * shard.stat().st_size)
    again = BoxSet.open(tmp_path)
    assert box_metrics(again, None)["share_full"] == 0
    assert CliRunner().invoke(cli, ["boxes", "info", str(made.folder)]).exit_code == 0


def test_useful_boxes_have_no_warning_and_a_set_of_none_has_no_figures(tmp_path):
    useful = audit(box_set(tmp_path / "useful", [table("abcd", squares(0.2, 0.5, 1, 1))]))
    assert (useful.warning, useful.remedy) == (None, None)
    none = audit(box_set(tmp_path / "none", [table([], [])]))
    assert (none.images, none.mean_area, none.warning) == (0, None, None)


def warm(n: int, floor: float) -> np.ndarray:
    """Heatmaps that are `floor` but for one cold cell and a hot block of 4 x 4 of 8 x 8 cells."""
    heatmaps = np.full((n, 8, 8), floor, np.float16)
    heatmaps[:, 0, 0] = 0
    for number, heatmap in enumerate(heatmaps):
        top, left = divmod(number % 9, 3)
        heatmap[1 + top : 5 + top, 1 + left : 5 + left] = 1
    return heatmaps


def keys_of(heatmaps: np.ndarray) -> list[str]:
    return [f"image{number}" for number in range(len(heatmaps))]


def test_a_no_op_names_the_mildest_threshold_that_is_none(tmp_path):
    rule, heatmaps = BoxRule(0.1), warm(50, 0.33)
    rows = located(keys_of(heatmaps), heatmaps, rule)
    made = box_set(tmp_path / "set", [rows], provenance(rule))
    found = audit(made)
    assert found.full == 1
    assert (found.remedy.name, found.remedy.value) == ("threshold", 0.4)
    # At 0.4 the tent between .33 and 1 is cut 1/10 of the way outwards from a hot cell's edge on.
    assert 0.25 < found.remedy.mean_area < 0.45
    assert found.remedy.images == 50
    assert "these boxes carry nothing of the image: 100% cover more than 90%" in found.warning
    area = f"{found.remedy.mean_area:.0%}"
    assert f"with `threshold` 0.4 the mean area would be {area}" in found.warning
    assert "`map` auto" in found.warning
    result = CliRunner().invoke(cli, ["boxes", "audit", str(made.folder)])
    assert f"with --threshold 0.4 the mean area would be {area}" in result.stderr
    assert f"ccrop boxes rethreshold {made.folder} OUT --threshold 0.4\n" in result.stderr
    assert "--map auto" in result.stderr

    result = CliRunner().invoke(
        cli,
        ["boxes", "rethreshold", str(made.folder), str(tmp_path / "new"), "--threshold", "0.4"],
    )
    assert result.exit_code == 0, result.output
    assert "Warning" not in result.stderr
    assert f"boxes       mean area {found.remedy.mean_area:.1%}" in result.stdout
    audited = CliRunner().invoke(cli, ["boxes", "audit", str(tmp_path / "new")])
    # Which is no high figure: kappa is not known, and a model would tell it.
    assert re.search(r"^own         not known; 0?\.\d+ if kappa were 1", audited.stdout, re.M)
    assert f"to find out: ccrop boxes audit {tmp_path}/new SOURCE --model MODEL\n" in result.stderr


def test_a_threshold_that_helps_half_of_the_images_is_not_enough(tmp_path):
    rule, heatmaps = BoxRule(0.1), np.concatenate([warm(20, 0.33), warm(20, 0.55)])
    rows = located(keys_of(heatmaps), heatmaps, rule)
    found = audit(box_set(tmp_path, [rows], provenance(rule)))
    assert (found.remedy.name, found.remedy.value) == ("threshold", 0.6)


def test_a_no_op_of_a_mass_names_a_mass(tmp_path):
    rule, heatmaps = BoxRule(None, 1.0), warm(20, 0.05)
    rows = located(keys_of(heatmaps), heatmaps, rule)
    found = audit(box_set(tmp_path, [rows], provenance(rule)))
    assert (found.remedy.name, found.remedy.value) == ("mass", 0.9)
    # The block of 16 cells holds 16 of 16 + 47 * .05 = 18.35, short of nine tenths.
    assert 0.25 < found.remedy.mean_area < 0.9


@pytest.mark.parametrize("heatmaps", [None, warm(30, 0.95)])
def test_where_no_threshold_helps_another_map_is_the_advice(tmp_path, heatmaps):
    rule = BoxRule(0.1)
    rows = (
        table([f"image{number}" for number in range(30)], squares(*[1] * 30))
        if heatmaps is None
        else located(keys_of(heatmaps), heatmaps, rule)
    )
    found = audit(box_set(tmp_path, [rows], provenance(rule)))
    assert found.remedy is None
    assert "with another layer or model" in found.warning
    assert "rethreshold" not in found.warning


def test_rules_are_tried_on_a_sample_of_shards_and_rows(tmp_path):
    rule, heatmaps = BoxRule(0.1), warm(700, 0.33)
    shards = [
        located([f"{number}-{key}" for key in keys_of(heatmaps)], heatmaps, rule)
        for number in range(10)
    ]
    found = audit(box_set(tmp_path, shards, provenance(rule)))
    assert (found.images, found.remedy.images) == (7000, 4096)


@pytest.mark.parametrize(
    ("status", "part"), [(EMPTY, "constant, not finite"), (UNREADABLE, "could not be decoded")]
)
def test_what_was_never_located_is_no_matter_of_thresholds(tmp_path, status, part):
    rows = table("abc", squares(1, 1, 0.5), [status, status, OK])
    found = audit(box_set(tmp_path, [rows], provenance(BoxRule(0.1))))
    assert f"67% of the {'heatmaps are ' if status == EMPTY else 'images '}{part}" in found.warning
    assert found.remedy is None


def test_boxes_that_no_model_made_are_told_so(tmp_path):
    found = audit(box_set(tmp_path, [table("ab", squares(1, 1))]))
    assert "carry nothing of the image" in found.warning
    assert "rethreshold" not in found.warning


def test_the_command_prints_a_histogram_and_warns_on_stderr(tmp_path):
    box_set(tmp_path, [table("abcd", squares(0.95, 1, 1, 0.35))])
    result = CliRunner().invoke(cli, ["boxes", "audit", str(tmp_path)])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "verdict     cannot tell"
    assert any(line.startswith("areas       mean 82.5%") for line in lines)
    assert lines[-7].split() == ["area", "up", "to", "40%", "25.0%", "#" * 13]
    assert lines[-1].split()[-2:] == ["75.0%", "#" * 40]
    assert result.stderr == ""
    result = CliRunner().invoke(cli, ["boxes", "audit", str(tmp_path), "--json"])
    answer = json.loads(result.stdout)
    assert (answer["images"], answer["full"], answer["remedy"]) == (4, 0.5, None)
    assert (answer["verdict"], answer["warning"]) == ("cannot tell", None)
    assert result.stderr == ""
