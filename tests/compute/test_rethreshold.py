import json

import numpy as np
import pytest
import torch
from ccrop_cli.main import cli
from click.testing import CliRunner

from ccrop_pipeline.boxset import EMPTY, OK, UNREADABLE, BoxSet, convert, validate
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.compute.rethreshold import rethreshold
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Sample, Scenes, open_source, pack
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer, build_backbone
from tests.counted import Counted

SETTINGS = {"batch_size": 7, "threads": 1}
RULES = [
    BoxRule(0.6),
    BoxRule(None, 0.5),
    BoxRule(0.4, component="largest", margin=0.1),
    BoxRule(0.999, min_size=0.5),
    BoxRule(0.2, centre_weight=0.5, margin=0.1),
]


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(build_backbone("small"), "layer4", 32, name="small")


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A source with an image that cannot be read, and its box set."""
    folder = tmp_path_factory.mktemp("rethreshold")
    samples = [*Scenes(20, size=48).read("train-000000")][:11]
    samples.insert(4, Sample("bad", b"\xff\xd8broken", None))
    pack(samples, folder / "tars", max_images=5)
    source = open_source(folder / "tars")
    return source, compute_boxes(
        source, Localizer(encoder(), rule=BoxRule(0.1)), folder / "boxes", **SETTINGS
    )


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


@pytest.mark.parametrize("rule", RULES)
def test_files_are_those_of_computing_with_that_rule(computed, tmp_path, rule):
    source, box_set = computed
    anew = compute_boxes(source, Localizer(encoder(), rule=rule), tmp_path / "anew", **SETTINGS)
    ours = rethreshold(box_set, tmp_path / "ours", rule)
    assert contents(ours.folder) == contents(anew.folder)
    assert contents(ours.folder) != contents(box_set.folder)
    assert validate(ours.folder) == []


def test_rows_may_become_empty_and_come_back(computed, tmp_path):
    _, box_set = computed
    # No pixel of an upsampled map is as hot as its hottest cell, where pixels avoid cell centres.
    empty = rethreshold(box_set, tmp_path / "empty", BoxRule(0.9999))
    back = rethreshold(empty, tmp_path / "back", BoxRule(0.1))
    status = np.concatenate([table.status for _, table in empty.tables()])
    assert set(status.tolist()) <= {OK, EMPTY, UNREADABLE}
    assert (status == EMPTY).sum() > 0
    assert (status == UNREADABLE).sum() == 1
    assert contents(back.folder) == contents(box_set.folder)


def test_the_form_stays(computed, tmp_path):
    _, box_set = computed
    convert(box_set.folder, tmp_path / "first", form="webdataset")
    other = rethreshold(BoxSet.open(tmp_path / "first"), tmp_path / "tar", BoxRule(0.6))
    same = rethreshold(box_set, tmp_path / "parquet", BoxRule(0.6))
    assert (other.manifest.form, same.manifest.form) == ("webdataset", "parquet")
    assert validate(other.folder) == []
    for (_, one), (_, two) in zip(other.tables(), same.tables(), strict=True):
        assert np.array_equal(one.boxes, two.boxes)


def test_a_stopped_run_goes_on_and_another_rule_is_refused(computed, tmp_path):
    _, box_set = computed
    whole = contents(rethreshold(box_set, tmp_path / "out", BoxRule(0.6)).folder)
    (tmp_path / "out/manifest.json").unlink()
    name = box_set.manifest.shards[1].file
    (tmp_path / "out" / name).unlink()
    counted = Counted()
    rethreshold(box_set, tmp_path / "out", BoxRule(0.6), observer=counted)
    assert contents(tmp_path / "out") == whole
    assert counted.done == [box_set.manifest.shards[1].rows]
    with pytest.raises(CcropError, match="choose another folder"):
        rethreshold(box_set, tmp_path / "out", BoxRule(0.7))
    assert contents(tmp_path / "out") == whole


def test_boxes_are_never_written_over_those_they_come_from(computed):
    _, box_set = computed
    before = contents(box_set.folder)
    with pytest.raises(CcropError, match="choose another folder"):
        rethreshold(box_set, box_set.folder, BoxRule(0.7))
    assert contents(box_set.folder) == before


def test_without_heatmaps_there_is_nothing_to_do_it_with(computed, tmp_path):
    source, _ = computed
    made = Localizer(encoder(), rule=BoxRule(0.1))
    box_set = compute_boxes(source, made, tmp_path / "boxes", threads=1, heatmaps=False)
    with pytest.raises(CcropError, match="without heatmaps"):
        rethreshold(box_set, tmp_path / "out", BoxRule(0.5))
    assert not (tmp_path / "out").exists()


def run(*arguments):
    return CliRunner().invoke(cli, ["boxes", "rethreshold", *map(str, arguments)])


def test_the_command_changes_what_is_asked_for_and_nothing_else(computed, tmp_path):
    _, box_set = computed
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    result = run(box_set.folder, first, "--threshold", 0.4, "--component", "largest", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["provenance"]["localizer"]["component"] == "largest"
    assert run(first, second, "--margin", 0.1).exit_code == 0
    expected = rethreshold(box_set, tmp_path / "ours", RULES[2])
    assert contents(second) == contents(expected.folder)
    # A mass has no component; the margin stays.
    assert run(second, third, "--mass", 0.5).exit_code == 0
    localizer = BoxSet.open(third).manifest.provenance.localizer
    assert (localizer.threshold, localizer.mass, localizer.component) == (None, 0.5, "all")
    assert localizer.margin == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "at least one"),
        (["--threshold", 0.1, "--mass", 0.5], "not both"),
        (["--mass", 0.5, "--component", "largest"], "give no mass"),
        (["--threshold", 1], "--threshold"),
        (["--mass", 0], "--mass"),
        (["--min-size", 2], "--min-size"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(computed, tmp_path, options, message):
    result = run(computed[1].folder, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()
