"""How recipes are read: bases, settings on top, kinds of values."""

import json
import re
from pathlib import Path

import pytest

from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.recipes import Recipe, RefreshStage, load_recipe, make_plan, settings_type
from ccrop_pipeline.recipes.recipe_files import overrides_to
from ccrop_pipeline.views import AugmentSettings


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def test_a_setting_that_is_wrong_in_a_file_is_named_with_the_file(tmp_path):
    (tmp_path / "own.toml").write_text('extends = "demo"\nepochs = "many"\n')
    with pytest.raises(SettingError, match=r"recipe .*own\.toml: epochs is 'many'"):
        load_recipe(str(tmp_path / "own.toml"))


def test_a_file_takes_over_what_it_does_not_say(tmp_path):
    text = 'extends = "demo"\nepochs = 7\n[crop]\nalpha = 0.3\n[method]\nprojection_dim = 64\n'
    own, demo = load_recipe(write(tmp_path / "own.toml", text)), load_recipe("demo")
    assert (own.epochs, own.crop.alpha, own.method.projection_dim) == (7, 0.3, 64)
    assert (own.batch_size, own.boxes, own.probe) == (demo.batch_size, demo.boxes, demo.probe)
    assert own.method.temperature == demo.method.temperature == 0.2


def test_a_base_is_found_beside_the_file_that_names_it_and_bases_have_bases(tmp_path, monkeypatch):
    write(tmp_path / "base" / "first.toml", 'extends = "demo"\nepochs = 5\nbatch_size = 16\n')
    write(tmp_path / "base" / "second.toml", 'extends = "first.toml"\nepochs = 6\n')
    top = write(tmp_path / "own" / "top.toml", 'extends = "../base/second.toml"\nseed = 3\n')
    monkeypatch.chdir(tmp_path / "base")
    recipe = load_recipe(top, ["seed=4"])
    assert (recipe.epochs, recipe.batch_size, recipe.seed) == (6, 16, 4)
    assert recipe.backbone == "small"


def test_recipes_that_extend_each_other_are_refused(tmp_path):
    a = write(tmp_path / "a.toml", 'extends = "b.toml"\n')
    write(tmp_path / "b.toml", 'extends = "a.toml"\n')
    with pytest.raises(CcropError, match=r"circle: \S*a.toml -> \S*b.toml -> \S*a.toml"):
        load_recipe(a)
    with pytest.raises(CcropError, match="circle"):
        load_recipe(write(tmp_path / "self.toml", 'extends = "self.toml"\n'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "cifar10-simcl"', r"own.toml extends 'cifar10-simcl'.*mean cifar10-simclr\?"),
        ('extends = "gone.toml"', r"extends 'gone.toml'.*neither a file"),
        ("extends = 3", "own.toml: extends is 3"),
        ('extends = "demo"\ncrop = 3', "crop is 3.*table"),
        ('extends = "demo"\n[epochs]\nx = 1', "epochs is no table.*20"),
        ("method = 3", "method is 3.*table"),
        ("[method]\ntemperature = 1", "method.name is None"),
        ('[method]\nname = "mocov"', r"'mocov'.*did you mean mocov"),
        ('[method]\nname = "simclr"\nqueue_size = 9', r"method.queue_size.*Known are: name"),
        ("[local_views]\nscale = [0.1, 0.2, 0.3]", r"local_views.scale.*a list of 2 numbers"),
        ("[boxes]\nrefresh_epochs = [1.5]", r"boxes.refresh_epochs\[0\] is 1.5.*whole number"),
        ('[boxes]\nrefresh_at = ["x"]', r"boxes.refresh_at\[0\] is 'x'.*a number"),
        ('[boxes]\nkind = "center"', "boxes.kind is 'center'.*one of encoder, none, centre, full"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, message):
    with pytest.raises(CcropError, match=message):
        load_recipe(write(tmp_path / "own.toml", text))


def test_extends_is_for_files():
    with pytest.raises(CcropError, match="belongs in a recipe's file"):
        load_recipe("demo", ["extends=mocov2"])


def test_another_method_in_a_file_starts_from_its_defaults(tmp_path):
    text = 'extends = "cifar10-mocov2"\n[method]\nname = "simclr"\nprojection_dim = 64\n'
    recipe = load_recipe(write(tmp_path / "own.toml", text))
    assert recipe.method == settings_type("simclr")(projection_dim=64)
    assert recipe.crop == load_recipe("cifar10-mocov2").crop


def test_another_method_on_top_keeps_what_the_recipe_set_and_has_defaults_for_the_rest():
    recipe = load_recipe("cifar10-simclr", ["method.name=mocov2"])
    assert recipe.method == settings_type("mocov2")(temperature=0.5)
    with pytest.raises(CcropError, match=r"method.queue_size.*Known are.*take a recipe of"):
        load_recipe("cifar10-mocov2", ["method.name=simclr"])


@pytest.mark.parametrize(
    ("override", "given"),
    [
        ("boxes.refresh_every=3", {"refresh_every": 3}),
        ("boxes.refresh_epochs=[2, 4]", {"refresh_epochs": (2, 4)}),
        ("boxes.kind=none", {"kind": "none"}),
        ("boxes.threshold=0.5", {"refresh_at": (0.05,), "threshold": 0.5}),
    ],
)
def test_a_schedule_replaces_that_of_the_base(override, given):
    boxes = load_recipe("demo", [override]).boxes  # demo has refresh_at = [0.05]
    schedule = {"refresh_at": (), "refresh_every": 0, "refresh_epochs": (), "kind": "encoder"}
    assert {**schedule, "threshold": None, **given}.items() <= vars(boxes).items()


def test_a_threshold_sets_itself_unless_it_is_given(tmp_path):
    assert load_recipe("simclr").boxes.threshold is None
    assert load_recipe("cifar100-simclr").boxes.threshold == 0.1
    assert load_recipe("cifar100-simclr", ["boxes.threshold=auto"]).boxes.threshold is None
    own = tmp_path / "own.toml"
    own.write_text('extends = "in200-simclr"\n[boxes]\nthreshold = "auto"\n')
    assert load_recipe(str(own)).boxes.threshold is None
    with pytest.raises(SettingError, match="threshold"):
        load_recipe("simclr", ["boxes.threshold=itself"])


def test_a_second_augmentation_is_optional_and_survives_json():
    one, two = load_recipe("mocov2"), load_recipe("byol")
    assert one.augment_second is None
    assert isinstance(two.augment_second, AugmentSettings)
    for recipe in (one, two, Recipe()):
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
        assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_the_file_in_the_docs_is_read(tmp_path):
    page = Path(__file__).parents[2] / "docs/recipes.md"
    (block,) = re.findall(r"```toml\n(.*?)```", page.read_text(), re.S)
    recipe = load_recipe(write(tmp_path / "own.toml", block))
    refreshes = [stage.epoch for stage in make_plan(recipe) if isinstance(stage, RefreshStage)]
    assert (recipe.method.name, recipe.crop.alpha) == ("mocov2", 0.4)
    assert refreshes == [50, 75, 100, 125, 150, 175]


@pytest.mark.parametrize(
    "settings",
    [
        ["probe.k=200", "crop.scale=[0.2,1.0]", "optimizer.weight_decay=1e-06"],
        ["crop.rule=paper", "probe.k=auto", "method.temperature=0.2"],
        ["method.name=mocov2", "probe.k=auto", "boxes.threshold=auto"],
    ],
)
def test_overrides_make_one_recipe_into_another(settings):
    own = load_recipe("demo", ["boxes.threshold=0.2", "probe.k=5", "method.temperature=0.3"])
    other = load_recipe("demo", [*settings, "probe.max_images=99"])
    found = overrides_to(own.to_dict(), other.to_dict())
    if own.method.name == other.method.name:
        texts = ["boxes.threshold=0.2", "probe.k=5", "method.temperature=0.3", *found]
        assert load_recipe("demo", texts) == other
    else:
        assert not found  # other settings, too
    assert overrides_to(own.to_dict(), own.to_dict()) == []
