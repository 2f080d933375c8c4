import pytest

from ccrop_pipeline.base.values import differences
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.recipes import Recipe, load_recipe


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
        ("epochs=many", "epochs is 'many'.*a whole number"),
        ("epochs=true", "epochs is True.*a whole number"),
        ("epochs=1.5", "epochs is 1.5.*a whole number"),
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
        ("optimizer.lr=nan", "optimizer.lr is nan.*finite"),
        ("optimizer.lr=inf", "optimizer.lr is inf.*finite"),
        ("optimizer.clip_norm=nan", "optimizer.clip_norm is nan.*finite"),
        ("optimizer.final_weight_decay=-inf", "optimizer.final_weight_decay is -inf.*finite"),
        ("probe.temperature=nan", "probe.temperature is nan.*finite"),
        ("augment.contrast=inf", "augment.contrast is inf.*finite"),
        ("local_views.scale=[0.9, 0.1]", r"local_views.scale.*\(0.9, 0.1\).*not below the first"),
        ("local_views.scale=[0, 0.1]", r"local_views.scale.*\(0.0, 0.1\)"),
        ("probe.k=0", "probe"),
        ("batch_size=1", "batch_size"),
        ("seed=-1", r"seed is -1; it must be in \[0, 4294967295\]"),
        ("seed=4294967296", "seed is 4294967296"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(CcropError, match=message):
        load_recipe("demo", [override])


def test_an_unknown_recipe_names_those_that_there_are(tmp_path):
    with pytest.raises(CcropError, match=r"did you mean cifar10-mocov2.*ccrop recipes"):
        load_recipe("cifar10-mocv2")
    (tmp_path / "broken.toml").write_text("epochs = = 3")
    with pytest.raises(CcropError, match="not TOML"):
        load_recipe(str(tmp_path / "broken.toml"))


def test_differences_name_each_setting_once():
    old = Recipe(epochs=5).to_dict()
    new = {**old, "epochs": 6, "crop": {**old["crop"], "alpha": 0.1}}
    assert differences(old, new) == ["epochs: 5 -> 6", "crop.alpha: 0.6 -> 0.1"]
    assert differences(old, old) == []


@pytest.mark.parametrize(
    "setting",
    [
        "method.temperature=1e-9",
        "probe.temperature=5e-324",
        "eval_size=1",
        "backbone=resnet19",
    ],
)
def test_what_no_run_can_take_is_refused_with_the_recipe(setting):
    with pytest.raises(CcropError, match=f"{setting.partition('=')[0].split('.')[-1]} is "):
        load_recipe("cifar10-simclr-2core", [setting])
