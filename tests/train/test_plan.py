import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.train import Recipe, RefreshStage, TrainStage, describe, make_plan
from ccrop_pipeline.train.recipe import BoxSettings
from ccrop_pipeline.train.schedule import learning_rate


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


def test_random_crops_throughout():
    assert make_plan(recipe(refresh_at=())) == [TrainStage(0, 100, None)]


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


@given(
    epochs=st.integers(1, 300),
    shares=st.lists(st.floats(0.01, 0.99), max_size=5, unique=True).map(sorted),
    every=st.integers(0, 20),
)
def test_every_epoch_is_trained_once_and_every_box_set_is_computed_before_its_use(
    epochs, shares, every
):
    try:
        plan = make_plan(recipe(epochs, refresh_at=tuple(shares), refresh_every=every))
    except CcropError:
        return
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


def test_stages_are_described_with_epochs_counted_from_one():
    assert describe(TrainStage(0, 20, None)) == "train epochs 1-20: random crops"
    assert describe(TrainStage(20, 40, "boxes/x")) == "train epochs 21-40: boxes from boxes/x"
    assert describe(RefreshStage(20, "boxes/x")) == "refresh after epoch 20: compute boxes/x"


def test_learning_rate_grows_linearly_then_falls_as_half_a_cosine():
    rates = [learning_rate(step, 110, 10, 0.4) for step in range(110)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[60] == pytest.approx(0.2)
    assert rates[35] == pytest.approx(0.4 * math.cos(math.pi / 8) ** 2)
    assert learning_rate(109, 110, 0, 1.0) < 3e-4
    assert learning_rate(0, 110, 0, 1.0) == 1.0
