"""Arms that share a warm-up are what separate trainings would have been."""

from dataclasses import replace
from statistics import mean

import pytest

from benchmarks.evidence.arms import Arm, Study
from benchmarks.evidence.boxes import statistics
from benchmarks.evidence.results import add_results, read_results
from benchmarks.evidence.runs import Series, train_missing
from ccrop_pipeline.base import Observer
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.images import Scenes, open_source, pack, true_boxes
from ccrop_pipeline.localize import BoxRule, Localizer
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Inputs, Machine, Trainer, load_checkpoint

pytestmark = pytest.mark.slow

SETTINGS = ("epochs=5", "batch_size=16", "eval_size=32", "optimizer.lr=0.05", "probe.k=5")
STUDY = Study(
    title="tiny",
    recipe="demo",
    settings=SETTINGS,
    warmup=1,
    probe_every=2,
    arms={
        "random": Arm("random", "none"),
        "overlap": Arm("overlap", "warm"),
        "other-seed": Arm("other", "other-seed"),
        "low": Arm("low", "warm", threshold=0.2),
        "again": Arm("again", "again", threshold=0.4, scale=0.5),
        "shuffled": Arm("shuffled", "true-shuffled"),
    },
    contrasts=(),
)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence")
    for split in ("train", "test"):
        pack(Scenes(32, size=32, split=split), folder / split, prefix=split)
    train, test = (open_source(folder / split) for split in ("train", "test"))
    made = Series("tiny", STUDY, train, test, test, folder / "out", seed=3)
    assert train_missing([made], STUDY.arms) == []
    return made


def _result(series, arm):
    (found,) = [r for r in read_results(series.out / "evidence.jsonl") if r["arm"] == arm]
    return found


def _alone(series, folder, *settings, boxes=None):
    recipe = load_recipe("demo", [*SETTINGS, "seed=3", "probe.every=0", *settings])
    trainer = Trainer(
        Inputs(series.train, boxes=boxes), folder, recipe, Machine(threads=1), Observer()
    )
    trainer.train()
    return [record["loss"] for record in trainer.run.metrics()]


@pytest.mark.parametrize(
    ("arm", "settings"),
    [
        ("random", ('boxes.kind="none"',)),
        ("overlap", ("boxes.refresh_epochs=[1]",)),
        (
            "again",
            (
                "boxes.refresh_at=[0.2, 0.4, 0.6, 0.8]",
                "boxes.threshold=0.4",
                "crop.scale=[0.5, 1.0]",
            ),
        ),
    ],
)
def test_an_arm_has_the_losses_of_a_training_of_its_own(series, tmp_path, arm, settings):
    losses = [point["loss"] for point in _result(series, arm)["curve"]]
    assert losses == pytest.approx(_alone(series, tmp_path / arm, *settings), rel=1e-5)


def test_boxes_of_another_seed_are_used_from_the_first_epoch_on(series, tmp_path):
    (boxes,) = (series.out / "runs").glob("*/other-seed-donor/boxes/epoch-0001")
    losses = [point["loss"] for point in _result(series, "other-seed")["curve"]]
    assert losses == pytest.approx(_alone(series, tmp_path / "own", boxes=boxes), rel=1e-5)
    assert losses[0] != pytest.approx(_result(series, "random")["curve"][0]["loss"], rel=1e-5)


def test_another_threshold_gives_boxes_of_another_size(series):
    low, usual = (_result(series, arm)["boxes"][0]["area"] for arm in ("low", "overlap"))
    assert low > usual
    (made,) = (series.out / "runs").glob("*/boxes-threshold-0.2")
    assert BoxSet.open(made).manifest.provenance.localizer.threshold == 0.2


def test_a_result_says_what_was_trained_and_how_long(series):
    result = _result(series, "overlap")
    assert [point["epoch"] for point in result["curve"]] == [1, 2, 3, 4, 5]
    assert [probe["epoch"] for probe in result["probes"]] == [2, 4, 5]
    assert (result["images"], result["seed"], result["recipe"]["seed"]) == (160, 3, 3)
    assert result["train_seconds"] == pytest.approx(
        sum(point["seconds"] for point in result["curve"]), abs=0.06
    )
    assert set(result["windows"]) == {"pair_iou", "object", "missed"}
    assert len(result["refresh_seconds"]) == 1
    assert _result(series, "random")["refresh_seconds"] == []


def test_accuracy_by_size_is_that_of_each_quarter_and_of_all_together(series):
    result = _result(series, "overlap")
    areas = []
    for sample in (one for shard in series.test.shards for one in series.test.read(shard)):
        left, top, right, bottom = true_boxes(sample.annotation)[0]
        areas.append((right - left) * (bottom - top))
    quarters = result["by_size"]
    assert [quarter["images"] for quarter in quarters] == [8, 8, 8, 8]
    assert [quarter["largest"] for quarter in quarters] == [
        pytest.approx(sorted(areas)[8 * number + 7], abs=1e-4) for number in range(4)
    ]
    for probe in ("knn", "linear"):
        assert mean(quarter[probe] for quarter in quarters) == pytest.approx(result[probe])


def test_held_images_are_asked_about_too(series):
    result = _result(series, "overlap")
    assert (result["held"]["images"], result["held"]["knn"]) == (32, result["knn"])


def test_true_boxes_of_others_are_those_boxes_at_other_images(series):
    (box_set,) = _result(series, "shuffled")["boxes"]
    (true,) = (series.out / "runs").glob("*/boxes-true")
    assert statistics(true, series.train)["area"] == box_set["area"]
    assert box_set["iou"] < 0.5


def test_a_self_set_rule_is_told_with_its_threshold(series, tmp_path):
    checkpoint = next((series.out / "runs").glob("*/warm-up/checkpoints/epoch-0001.pt"))
    localizer = Localizer(load_checkpoint(checkpoint).encoder(), rule=BoxRule(None))
    box_set = compute_boxes(series.train, localizer, tmp_path / "boxes")
    found = statistics(tmp_path / "boxes", series.train)
    made = box_set.manifest.provenance.localizer
    assert (found["threshold"], found["worthless"]) == (made.threshold, made.choice.worthless)


def test_what_is_finished_is_not_trained_again(series):
    file = series.out / "evidence.jsonl"
    before = read_results(file)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if '"arm": "low"' not in line))
    for arm in STUDY.arms:
        series.arm(arm)
    after = read_results(file)
    assert [result["arm"] for result in after] == [result["arm"] for result in before]
    assert len(after) == len(STUDY.arms)
    for old, new in zip(before, after, strict=True):
        if old["arm"] == "low":
            assert (old["knn"], old["curve"]) == (new["knn"], new["curve"])
        else:
            assert old == new


def test_a_piece_ends_in_time_and_the_next_goes_on_from_the_results_alone(series, tmp_path):
    before = read_results(series.out / "evidence.jsonl")
    missing = ("random", "shuffled")
    add_results(tmp_path / "evidence.jsonl", [r for r in before if r["arm"] not in missing])
    fresh = replace(series, out=tmp_path)
    assert train_missing([fresh], STUDY.arms, seconds=0.001) == [(3, "shuffled")]
    assert len(list((tmp_path / "runs").glob("*/*/run.json"))) == 2  # the warm-up and one arm
    for old in before:
        new = [r for r in read_results(tmp_path / "evidence.jsonl") if r["arm"] == old["arm"]]
        assert [r["knn"] for r in new] == [old["knn"]] * (old["arm"] != "shuffled")
