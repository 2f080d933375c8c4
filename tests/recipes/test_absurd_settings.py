"""Every setting of every method with absurd values: refused in one message, or a possible plan."""

import copy
import json
import math

import pytest

from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.recipes import METHOD_SETTINGS, FixedStage, Recipe, TrainStage, make_plan

HUGE, MANY = 10**5000, 100_000
# No setting may take one of these.
NEVER = [
    *(-2, 1 << 63, 1 << 64, HUGE, -HUGE, 1e300, -1e300, math.nan, math.inf, -math.inf),
    *("x", "9" * MANY, "\x1b]0;t\x07[/red]\0\n", "\ud800", {"a": 1}, object()),
    *([None], ["a", "b"], [[]], [True, True], [-1, 0], [0, 0], [HUGE, HUGE], [math.nan, math.nan]),
    *([1e300, 1e300], [0.5] * MANY, list(range(1, MANY + 1)), b"\xff"),
]
# These suit some.
SELDOM = [0, -1, 0.0, -0.0, 5e-324, 1e-300, True, False, None, "", [], {}, 1 << 31, [1, 2], [0.5]]


def leaves(values, path=""):
    for name, value in values.items():
        yield path + name
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")


def plain(method):
    values = {"method": {"name": method}, "augment_second": {}, "augment_local": {}}
    return Recipe.from_dict(values).to_dict()


def settings():
    for method in METHOD_SETTINGS:
        for path in leaves(plain(method)):
            if method == "simclr" or path.startswith("method."):
                yield method, path


def possible(recipe):
    """Every epoch once, rates that are numbers, and the same recipe again from its record."""
    stages = make_plan(recipe)
    epochs = [e for s in stages if isinstance(s, TrainStage) for e in range(s.first, s.stop)]
    assert epochs == list(range(recipe.epochs))
    made = {s.boxes for s in stages if not isinstance(s, TrainStage)} | {None}
    assert {s.boxes for s in stages if isinstance(s, TrainStage)} <= made
    assert not any(isinstance(s, FixedStage) for s in stages[1:])
    steps = 7 * recipe.epochs
    for step in (0, steps // 2, steps - 1):
        assert 0 <= recipe.optimizer.rate(step, steps, 7) <= recipe.optimizer.lr
        assert math.isfinite(recipe.optimizer.decay(step, steps))
    for group in recipe.view_groups():
        assert 0 < group.scale[0] <= group.scale[1] <= 1
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict(), allow_nan=False))) == recipe
    return True


@pytest.mark.parametrize(("method", "path"), list(settings()))
def test_absurd_values_are_refused_by_name_or_make_a_possible_plan(method, path):
    *parents, name = path.split(".")
    base = plain(method)
    taken = []
    for value in NEVER + SELDOM:
        values = copy.deepcopy(base)
        table = values
        for parent in parents:
            table = table[parent]
        table[name] = value
        try:
            assert possible(Recipe.from_dict(values))
            taken.append(value)
        except SettingError as error:
            said = str(error)
            assert name in said or parents == ["method"]
            assert len(said) < 800
            assert said.isprintable()
    assert not [value for value in taken if any(value is never for never in NEVER)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"name": "lars", "weight_decay": 0}}, "optimizer.name is 'lars'"),
        ({"optimizer": {"name": "lars", "final_weight_decay": 0}}, "optimizer.name is 'lars'"),
        ({"boxes": {"refresh_from": "momentum"}}, "simclr has no momentum encoder"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_torch_is_imported(
    settings, message
):
    with pytest.raises(SettingError, match=message):
        Recipe.from_dict({"method": {"name": "simclr"}, **settings})
