import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.methods import METHODS
from ccrop_pipeline.recipes import (
    FixedStage,
    Recipe,
    RefreshStage,
    TrainStage,
    advice,
    bundled_recipes,
    describe,
    load_recipe,
    make_plan,
    shorter_schedules,
)
from ccrop_pipeline.recipes.settings import BoxSettings, OptimizerSettings


def recipe(epochs=100, **boxes):
    return Recipe(epochs=epochs, boxes=BoxSettings(**boxes))


def test_the_papers_plan():
    assert make_plan(recipe(500)) == [
        TrainStage(0, 100, None),
        RefreshStage(100, "boxes/epoch-0100"),
        TrainStage(100, 200, "boxes/epoch-0100"),
        RefreshStage(200, "boxes/epoch-0200"),
        TrainStage(200, 300, "boxes/epoch-0200"),
        RefreshStage(300, "boxes/epoch-0300"),
        TrainStage(300, 400, "boxes/epoch-0300"),
        RefreshStage(400, "boxes/epoch-0400"),
        TrainStage(400, 500, "boxes/epoch-0400"),
    ]


@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"refresh_at": (0.25,)},
        {"refresh_epochs": (10,)},
        {"refresh_every": 10, "warmup_epochs": 20},
        {"refresh_every": 10, "warmup_epochs": 200},  # as of a recipe that is tried for less long
        {"overlapped": True},
    ],
)
def test_random_crops_throughout(schedule):
    """Without boxes there is no warm-up either, whatever schedule the recipe had for them."""
    assert make_plan(recipe(kind="none", **schedule)) == [TrainStage(0, 100, None)]


def test_given_boxes_are_used_from_the_first_epoch_and_never_refreshed():
    given_boxes = Path("/some/boxes")
    assert make_plan(recipe(), given_boxes) == [TrainStage(0, 100, "/some/boxes")]


def test_given_boxes_are_refreshed_when_asked_for():
    assert make_plan(recipe(10, refresh_every=4), Path("/b")) == [
        TrainStage(0, 4, "/b"),
        RefreshStage(4, "boxes/epoch-0004"),
        TrainStage(4, 8, "boxes/epoch-0004"),
        RefreshStage(8, "boxes/epoch-0008"),
        TrainStage(8, 10, "boxes/epoch-0008"),
    ]


SCHEDULES = st.one_of(
    st.lists(st.floats(0.01, 0.99), max_size=5, unique=True).map(
        lambda shares: {"refresh_at": tuple(sorted(shares))}
    ),
    st.lists(st.integers(1, 300), min_size=1, max_size=5, unique=True).map(
        lambda epochs: {"refresh_epochs": tuple(sorted(epochs))}
    ),
    st.tuples(st.integers(1, 20), st.integers(0, 30)).map(
        lambda pair: {"refresh_every": pair[0], "warmup_epochs": pair[1]}
    ),
)


@given(epochs=st.integers(1, 300), schedule=SCHEDULES)
def test_every_epoch_is_trained_once_and_every_box_set_is_computed_before_its_use(epochs, schedule):
    try:
        plan = make_plan(recipe(epochs, **schedule))
    except CcropError:
        return
    assert len(plan) >= 3  # a warm-up is always followed by a refresh
    trained = [e for s in plan if isinstance(s, TrainStage) for e in range(s.first, s.stop)]
    assert trained == list(range(epochs))
    made = {None}
    epoch = 0
    for stage in plan:
        if isinstance(stage, RefreshStage):
            assert stage.epoch == epoch
            made.add(stage.boxes)
        else:
            assert stage.boxes in made
            assert stage.stop > stage.first
            epoch = stage.stop


@pytest.mark.parametrize(("epochs", "shares"), [(3, (0.1,)), (4, (0.5, 0.55)), (2, (0.9,))])
def test_refreshes_that_fall_together_or_outside_are_refused(epochs, shares):
    with pytest.raises(CcropError, match="refresh_at"):
        make_plan(recipe(epochs, refresh_at=shares))


@pytest.mark.parametrize("kind", ["centre", "full"])
@pytest.mark.parametrize("schedule", [{}, {"refresh_every": 2, "warmup_epochs": 5}])
def test_a_fixed_box_is_written_first_and_used_throughout(kind, schedule):
    assert make_plan(recipe(9, kind=kind, **schedule)) == [
        FixedStage(kind, f"boxes/{kind}"),
        TrainStage(0, 9, f"boxes/{kind}"),
    ]


@pytest.mark.parametrize("kind", ["none", "centre", "full"])
def test_given_boxes_and_a_recipe_without_boxes_of_an_encoder_contradict_each_other(kind):
    with pytest.raises(CcropError, match=rf"`boxes` is /b.*{kind}"):
        make_plan(recipe(kind=kind), Path("/b"))


def test_an_interval_after_a_warm_up_of_its_own():
    plan = make_plan(recipe(10, refresh_every=2, warmup_epochs=5))
    assert [stage.epoch for stage in plan if isinstance(stage, RefreshStage)] == [5, 7, 9]


def test_listed_epochs():
    plan = make_plan(recipe(10, refresh_epochs=(1, 6)))
    assert [stage.epoch for stage in plan if isinstance(stage, RefreshStage)] == [1, 6]


@pytest.mark.parametrize(
    "schedule", [{"refresh_every": 10}, {"refresh_every": 3, "warmup_epochs": 12}]
)
def test_a_warm_up_that_no_refresh_follows_is_refused(schedule):
    with pytest.raises(CcropError, match=r"warm-up would never end.*`boxes.refresh_at="):
        make_plan(recipe(10, **schedule))


@pytest.mark.parametrize("epochs", [(10,), (11,), (4, 12)])
def test_listed_epochs_at_or_after_the_end_are_refused(epochs):
    with pytest.raises(CcropError, match="be between 0 and 10"):
        make_plan(recipe(10, refresh_epochs=epochs))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"refresh_at": (0.5,), "refresh_every": 3}, "only one of them"),
        ({"refresh_epochs": (5,), "refresh_every": 3}, "only one of them"),
        ({"warmup_epochs": 5}, "without refresh_every"),
        ({"refresh_epochs": (5, 5)}, "increase"),
        ({"refresh_epochs": (-3, 10)}, r"refresh_epochs is \(-3, 10\).*in \[1, 100000\]"),
        ({"refresh_every": -1}, r"refresh_every is -1; it must be in \[0, 100000\]"),
    ],
)
def test_schedules_that_contradict_themselves_are_refused(settings, message):
    with pytest.raises(CcropError, match=message):
        BoxSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "latest"),
    [
        ({"lr_warmup_epochs": 10}, {"lr_warmup_epochs": 9}),
        ({"lr_warmup_epochs": 12, "schedule": "constant"}, {"lr_warmup_epochs": 9}),
        ({"schedule": "step", "milestones": (5, 10)}, {"milestones": (5, 9)}),
        ({"schedule": "step", "milestones": (60, 80)}, {"milestones": (8, 9)}),
    ],
)
def test_a_learning_rate_that_training_ends_before_is_refused(settings, latest):
    named = f"epochs is 10, which is too few: optimizer.{next(iter(latest))} is "
    for boxes in (BoxSettings(), BoxSettings(kind="none")):
        with pytest.raises(CcropError, match=named):
            make_plan(Recipe(epochs=10, boxes=boxes, optimizer=OptimizerSettings(**settings)))
        assert make_plan(
            Recipe(epochs=10, boxes=boxes, optimizer=OptimizerSettings(**{**settings, **latest}))
        )


def test_milestones_before_the_first_epoch_are_refused():
    for milestones in ((-1, 5), (0, 5)):
        with pytest.raises(CcropError, match=r"milestones is \(.*, 5\).*in \[1, 100000\]"):
            OptimizerSettings(schedule="step", milestones=milestones)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 9, 11])
def test_a_short_trial_of_a_recipe_is_planned_or_told_at_once_what_else_to_set(name, epochs):
    trial, refused = [f"epochs={epochs}"], False
    try:
        make_plan(load_recipe(name, trial))
    except CcropError as error:
        refused, trial = True, trial + re.findall("`(.+?)`", str(error))
    optimizer = load_recipe(name).optimizer
    late = optimizer.lr_warmup_epochs >= epochs or optimizer.milestones != ()
    assert refused == (late or epochs < 5)
    plan = make_plan(load_recipe(name, trial))
    assert plan[-1].stop == epochs
    assert epochs == 1 or any(isinstance(stage, RefreshStage) for stage in plan)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_the_schedules_of_every_recipe_can_be_shortened(epochs):
    trial, boxes = [f"epochs={epochs}"], "boxes/first"
    for name in bundled_recipes():
        shorter = shorter_schedules(load_recipe(name, trial), trial)
        assert make_plan(load_recipe(name, trial + shorter))[-1].stop == epochs
        with_boxes = shorter_schedules(load_recipe(name, trial), trial, boxes)
        assert make_plan(load_recipe(name, trial + with_boxes), boxes)[0].boxes.endswith(boxes)


def test_schedules_that_were_set_by_hand_stay():
    trial = ["epochs=2", "optimizer.lr_warmup_epochs=9"]
    shorter = shorter_schedules(load_recipe("simclr", trial), trial)
    assert shorter == ["boxes.refresh_at=[0.5]"]
    assert shorter_schedules(load_recipe("simclr"), trial[1:]) == []


@pytest.mark.parametrize(
    "schedule",
    [
        ["boxes.refresh_every=30"],
        ["boxes.refresh_every=3", "boxes.warmup_epochs=12"],
        ["boxes.refresh_epochs=[4, 12]"],
        ["boxes.refresh_at=[0.1, 0.11]"],
    ],
)
def test_what_else_to_set_replaces_any_schedule_of_refreshes(schedule):
    trial = ["epochs=8", "optimizer.lr_warmup_epochs=20", *schedule]
    with pytest.raises(CcropError, match="is too few: optimizer") as caught:
        make_plan(load_recipe("simclr", trial))
    remedies = re.findall("`(.+?)`", str(caught.value))
    assert remedies == ["optimizer.lr_warmup_epochs=0", "boxes.refresh_at=[0.2,0.4,0.6,0.8]"]
    plan = make_plan(load_recipe("simclr", trial + remedies))
    assert [stage.epoch for stage in plan if isinstance(stage, RefreshStage)] == [2, 3, 5, 6]


def test_an_overlapped_plan_only_leaves_checkpoints_and_takes_the_newest_boxes():
    assert make_plan(recipe(9, refresh_every=4, overlapped=True)) == [
        TrainStage(0, 4, None),
        RefreshStage(4, "boxes/epoch-0004", overlapped=True),
        TrainStage(4, 8, None, newest=True),
        RefreshStage(8, "boxes/epoch-0008", overlapped=True),
        TrainStage(8, 9, None, newest=True),
    ]


def test_an_overlapped_plan_keeps_given_boxes_until_there_are_newer_ones():
    plan = make_plan(recipe(9, refresh_every=4, overlapped=True), Path("/b"))
    assert plan == [
        TrainStage(0, 4, "/b"),
        RefreshStage(4, "boxes/epoch-0004", overlapped=True),
        TrainStage(4, 8, "/b", newest=True),
        RefreshStage(8, "boxes/epoch-0008", overlapped=True),
        TrainStage(8, 9, "/b", newest=True),
    ]


def test_stages_are_described_with_epochs_counted_from_one():
    assert describe(TrainStage(0, 20, None)) == "train epochs 1-20: random crops"
    assert describe(TrainStage(4, 5, None)) == "train epoch 5: random crops"
    assert describe(TrainStage(20, 40, "boxes/x")) == "train epochs 21-40: boxes from boxes/x"
    assert "the newest boxes" in describe(TrainStage(20, 40, None, newest=True))
    assert "ccrop boxes follow" in describe(RefreshStage(20, "boxes/x", overlapped=True))
    assert "same box" in describe(FixedStage("full", "boxes/full"))
    assert describe(RefreshStage(20, "boxes/x")) == "refresh after epoch 20: compute boxes/x"


def test_learning_rate_grows_linearly_then_falls_as_half_a_cosine():
    settings = OptimizerSettings(lr=0.4, lr_warmup_epochs=10)
    rates = [settings.rate(step, 110, 1) for step in range(110)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[60] == pytest.approx(0.2)
    assert rates[35] == pytest.approx(0.4 * math.cos(math.pi / 8) ** 2)
    assert OptimizerSettings(lr=1.0).rate(109, 110, 1) < 3e-4
    assert OptimizerSettings(lr=1.0).rate(0, 110, 1) == 1.0


def test_advice_before_a_run_on_few_images():
    def said(*settings, images=900, boxes=False, init=False, name="photos-simclr-2core"):
        return advice(load_recipe(name, settings), images, boxes=boxes, init=init)

    assert "900 images are too few to learn boxes from random weights" in said()
    assert said(images=5000) is None
    assert said(boxes=True) is said(init=True) is said("boxes.kind=none") is None
    # Six steps of 64; 12 of 32.
    small = said("boxes.kind=none", images=399)
    assert "399 images make 6 steps" in small
    assert "batch_size=32 for 12" in small
    assert said("boxes.kind=none", "batch_size=16", images=20) is None
    assert (
        "3 images are less than one batch of 64, which is refused: set batch_size=2 for 1 step"
        in (said("boxes.kind=none", images=3))
    )
    assert said("epochs=5", images=100_000, init=True) is None  # fewer would be no training
    long = said(images=10_000, init=True, name="continue-photos")
    assert "20 epochs of 10,000 images are many" in long
    assert "epochs=10" in long
    # Rates that fall towards the stem keep what is known there, which is nothing.
    random = said(images=5000, name="continue-photos")
    assert random == (
        "optimizer.layer_decay is 0.75, which is for weights that are given, and these are random: "
        "give some (`init`), or set optimizer.layer_decay=1."
    )
    assert said("optimizer.layer_decay=1", images=5000, name="continue-photos") is None
    assert said(images=5000, init=True, name="continue-photos") is None
