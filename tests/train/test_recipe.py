import json

import pytest

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.methods import build_method
from ccrop_pipeline.train import bundled_recipes, load_recipe, make_plan
from ccrop_pipeline.train.recipe import Recipe, differences
from ccrop_pipeline.train.recipe_files import recipe_from_dict


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipes_load_plan_build_and_come_back_from_json(name):
    recipe = load_recipe(name)
    make_plan(recipe)
    build_method(recipe.method, recipe.backbone)
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_papers_cifar_settings():
    moco, simclr = load_recipe("cifar10-mocov2"), load_recipe("cifar10-simclr")
    for recipe in (moco, simclr):
        assert (recipe.backbone, recipe.image_size) == ("resnet18-cifar", 32)
        assert (recipe.epochs, recipe.batch_size, recipe.crop.alpha) == (500, 512, 0.1)
        assert recipe.boxes.refresh_at == (0.2, 0.4, 0.6, 0.8)
    assert (moco.optimizer.lr, moco.method.temperature) == (0.5, 0.2)
    # The authors' SimCLR loss is 0.5 / 0.07 times ours, at learning rate 0.5 and decay 1e-4.
    assert simclr.optimizer.lr == pytest.approx(0.5 * 0.5 / 0.07, rel=1e-3)
    assert simclr.optimizer.lr * simclr.optimizer.weight_decay == pytest.approx(5e-5, rel=1e-3)


def test_a_file_of_ones_own_and_settings_on_top(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text('backbone = "small"\nepochs = 7\n[crop]\nrule = "paper"\nscale = [0.3, 1]\n')
    recipe = load_recipe(
        str(file), ["crop.alpha=1", "crop.rule=official", "boxes.refresh_at=[0.5]", "epochs=8"]
    )
    assert (recipe.epochs, recipe.crop.rule, recipe.crop.alpha) == (8, "official", 1.0)
    assert (recipe.crop.scale, recipe.boxes.refresh_at) == ((0.3, 1.0), (0.5,))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("crop.aplha=1", "crop.aplha.*did you mean alpha"),
        ("epoch=1", "epoch.*did you mean epochs"),
        ("epochs=many", "epochs is 'many'.*int"),
        ("epochs=true", "epochs is True.*int"),
        ("epochs=1.5", "epochs is 1.5.*int"),
        ("precision=fp8", "precision is 'fp8'"),
        ("crop=3", "crop is 3.*table"),
        ("epochs.x=3", "epochs is no table"),
        ("epochs", "NAME=VALUE"),
        ("crop.rule=centre", "rule"),
        ("crop.alpha=0", "alpha"),
        ("boxes.refresh_at=[0.5, 0.4]", "increase"),
        ("boxes.refresh_at=[1.5]", r"\(0, 1\)"),
        ("boxes.threshold=1", "threshold"),
        ("optimizer.momentum=1", "momentum"),
        ("probe.k=0", "probe"),
        ("batch_size=1", "batch_size"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(CcropError, match=message):
        load_recipe("demo", [override])


def test_an_unknown_recipe_names_those_that_there_are(tmp_path):
    with pytest.raises(CcropError, match=r"did you mean cifar10-mocov2.*demo"):
        load_recipe("cifar10-mocv2")
    (tmp_path / "broken.toml").write_text("epochs = = 3")
    with pytest.raises(CcropError, match="not TOML"):
        load_recipe(str(tmp_path / "broken.toml"))


def test_differences_name_each_setting_once():
    old = Recipe(epochs=5).to_dict()
    new = {**old, "epochs": 6, "crop": {**old["crop"], "alpha": 0.1}}
    assert differences(old, new) == ["crop.alpha: 0.6 -> 0.1", "epochs: 5 -> 6"]
    assert differences(old, old) == []
