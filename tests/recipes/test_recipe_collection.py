"""The recipes that come with the package, against what the paper and its authors published."""

import json
import math
import re
from pathlib import Path

import pytest

from ccrop_pipeline.base.values import differences
from ccrop_pipeline.methods import METHODS, build_method
from ccrop_pipeline.recipes import (
    FixedStage,
    Recipe,
    RefreshStage,
    TrainStage,
    bundled_recipes,
    load_recipe,
    make_plan,
)

ROOT = Path(__file__).parents[2]
SMALL = ("cifar10", "cifar100", "tinyimagenet", "stl10")
LARGE = ("in200", "in1k")

# Linear accuracy with random crops and with ContrastiveCrop: tables 2 and 3 of arXiv:2202.03278.
FIGURES = {
    "cifar10-simclr": (89.63, 90.08),
    "cifar10-mocov2": (86.73, 88.78),
    "cifar10-byol": (91.96, 92.54),
    "cifar10-simsiam": (90.96, 91.48),
    "cifar100-simclr": (60.30, 61.91),
    "cifar100-mocov2": (56.10, 57.65),
    "cifar100-byol": (63.75, 64.62),
    "cifar100-simsiam": (64.79, 65.82),
    "tinyimagenet-simclr": (45.19, 46.21),
    "tinyimagenet-mocov2": (47.09, 47.98),
    "tinyimagenet-byol": (46.08, 47.23),
    "tinyimagenet-simsiam": (43.03, 44.54),
    "stl10-simclr": (88.95, 89.53),
    "stl10-mocov2": (89.17, 89.81),
    "stl10-byol": (91.84, 92.42),
    "stl10-simsiam": (89.39, 89.83),
    "in200-simclr": (62.14, 63.08),
    "in200-mocov1": (64.52, 65.80),
    "in200-mocov2": (63.43, 64.61),
    "in200-simsiam": (62.89, 63.54),
    "in1k-simclr": (61.60, 61.85),
    "in1k-mocov1": (57.25, 58.34),
    "in1k-mocov2": (64.40, 64.89),
    "in1k-simsiam": (65.62, 65.95),
}
PAPER = list(FIGURES)

# What the authors' files in configs/ say: batch size, learning rate, temperature. Weight decay is
# 1e-4 and momentum 0.9 in all of them. By them, temperature None has none.
AUTHORS = {
    "cifar10-simclr": (512, 0.5, 0.5),
    "cifar10-mocov2": (512, 0.5, 0.2),
    "cifar10-byol": (512, 0.5, None),
    "cifar10-simsiam": (512, 0.5, None),
    "cifar100-simclr": (512, 0.5, 0.5),
    "cifar100-mocov2": (512, 0.5, 0.2),
    "cifar100-byol": (512, 0.5, None),
    "cifar100-simsiam": (512, 0.5, None),
    "tinyimagenet-simclr": (512, 0.5, 0.5),
    "stl10-simclr": (512, 0.5, 0.5),
    "in200-mocov1": (256, 0.03, 0.07),
    "in200-mocov2": (256, 0.03, 0.2),
    "in1k-mocov1": (256, 0.03, 0.07),
    "in1k-mocov2": (256, 0.03, 0.2),
}
# Their NT-Xent is multiplied by temperature / base_temperature.
LOSS_SCALE = {"simclr": 0.5 / 0.07}
CORRECTED = {name for name in PAPER if name.split("-")[1] in ("byol", "mocov1")} | {
    name for name in PAPER if name.endswith("simclr") and not name.startswith(LARGE)
}


def header(name):
    """The labelled lines at the top of a recipe, each joined to one line."""
    lines = []
    for line in bundled_recipes()[name].splitlines()[1:]:
        if re.match(r"# [A-Z][a-z]+: ", line):
            lines.append(line.removeprefix("# "))
        elif line.startswith("#      ") and lines:
            lines[-1] += " " + line.removeprefix("#").strip()
        else:
            break
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


@pytest.mark.parametrize("name", bundled_recipes())
def test_each_loads_plans_comes_back_from_json_and_says_what_it_is_for(name):
    recipe = load_recipe(name)
    plan = make_plan(recipe)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    said = header(name)
    assert {"Paper", "Command", "Expected", "Cost"} <= said.keys()
    if name != "demo":
        assert re.search(rf"--(recipe|method) {name}( |$)", said["Command"])
    assert ("encoder" in recipe.boxes.kind) == any(isinstance(s, RefreshStage) for s in plan)
    cost = re.match(r"(\d+) epochs x (?:about )?([\d,]+) images = ([\d.]+) million", said["Cost"])
    if cost:
        epochs, images, millions = (float(part.replace(",", "")) for part in cost.groups())
        assert epochs == recipe.epochs
        assert millions == pytest.approx(epochs * images / 1e6, abs=0.05)
        refreshes = re.search(r"(\d+) refreshes", said["Cost"])
        count = sum(isinstance(stage, RefreshStage) for stage in plan)
        assert count == (int(refreshes[1]) if refreshes else 0)


def test_there_are_all_recipes_of_the_paper_and_nothing_without_a_name():
    wanted = {*PAPER, *METHODS}
    rest = set(bundled_recipes()) - wanted
    assert wanted <= set(bundled_recipes())
    assert {"demo", "continue-photos"} <= rest
    assert all(name.endswith(("-2core", "-vit")) for name in rest - {"demo", "continue-photos"})


@pytest.mark.parametrize("name", PAPER)
def test_the_headers_give_the_figures_of_the_paper(name):
    random, boxes = FIGURES[name]
    said = header(name)["Expected"]
    assert said == f"linear accuracy {boxes:.2f} (random crops {random:.2f}), as published."
    assert ("Corrected" in header(name)) == (name in CORRECTED)
    assert header(name)["Source"].startswith("configs/") == (name in AUTHORS)


def test_the_table_in_the_docs_is_that_of_the_headers():
    text = (ROOT / "docs/recipes.md").read_text()
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 5 and cells[0].strip("`") in PAPER:
            rows[cells[0].strip("`")] = cells[1:]
    assert list(rows) == PAPER
    for name, (random, boxes, source, corrected) in rows.items():
        assert header(name)["Expected"].startswith(
            f"linear accuracy {boxes} (random crops {random})"
        )
        assert source == ("published" if name in AUTHORS else "derived")
        assert corrected == ("yes" if "Corrected" in header(name) else "")


@pytest.mark.parametrize("kind", ["none", "centre"])
@pytest.mark.parametrize("name", PAPER)
def test_random_crops_and_the_centre_box_are_one_setting_away(name, kind):
    recipe, base = load_recipe(name, [f"boxes.kind={kind}"]), load_recipe(name)
    assert differences(base.to_dict(), recipe.to_dict()) == [f"boxes.kind: encoder -> {kind}"]
    fixed = [FixedStage("centre", "boxes/centre")] if kind == "centre" else []
    boxes = fixed[0].boxes if fixed else None
    assert make_plan(recipe) == [*fixed, TrainStage(0, recipe.epochs, boxes)]


@pytest.mark.parametrize("name", PAPER)
def test_boxes_come_after_each_fifth_of_training(name):
    recipe = load_recipe(name)
    epochs = [stage.epoch for stage in make_plan(recipe) if isinstance(stage, RefreshStage)]
    # warmup_epochs = loc_interval = 100 of 500, or 20 of 100; box_thresh = 0.1.
    small = name.startswith(SMALL)
    assert epochs == ([100, 200, 300, 400] if small else [20, 40, 60, 80])
    assert (recipe.epochs, recipe.boxes.threshold) == (500 if small else 100, 0.1)


@pytest.mark.parametrize("name", PAPER)
def test_views_and_encoders_are_the_authors(name):
    recipe = load_recipe(name)
    small = name.startswith(SMALL)
    sizes = {"cifar10": 32, "cifar100": 32, "tinyimagenet": 64, "stl10": 96}
    assert recipe.image_size == sizes.get(name.split("-")[0], 224)
    assert recipe.backbone == ("resnet18-cifar" if small else "resnet50")
    crop, colours = recipe.crop, recipe.augment
    assert (crop.rule, crop.alpha, crop.scale) == ("official", 0.1 if small else 0.6, (0.2, 1.0))
    jitter = (colours.brightness, colours.contrast, colours.saturation, colours.hue)
    assert jitter == (0.4, 0.4, 0.4, 0.1)
    assert (colours.jitter_p, colours.grayscale_p, colours.flip_p) == (0.8, 0.2, 0.5)
    assert (colours.blur_p, colours.solarize_p) == (0 if small else 0.5, 0)
    assert recipe.augment_second is None


@pytest.mark.parametrize("name", AUTHORS)
def test_numbers_are_those_of_the_authors_files(name):
    recipe = load_recipe(name)
    batch_size, lr, temperature = AUTHORS[name]
    method = name.split("-")[1]
    scale = LOSS_SCALE.get(method, 1)
    assert recipe.batch_size == batch_size
    optimizer = recipe.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.lr_warmup_epochs) == ("sgd", 0.9, 0)
    assert optimizer.lr == pytest.approx(lr * scale, rel=1e-3)
    assert optimizer.lr * optimizer.weight_decay == pytest.approx(lr * 1e-4, rel=1e-3)
    assert getattr(recipe.method, "temperature", None) == temperature
    heads = {"mocov1": (128, 65536, 0.999), "mocov2": (128, 65536, 0.999)}
    if method in heads:
        mine = recipe.method
        assert (mine.projection_dim, mine.queue_size, mine.encoder_momentum) == heads[method]
    if method == "byol":
        mine = recipe.method
        assert (mine.hidden_dim, mine.projection_dim, mine.encoder_momentum) == (512, 128, 0.996)
    if method == "simsiam":
        mine = recipe.method
        sizes = (mine.hidden_dim, mine.projection_dim, mine.prediction_hidden_dim)
        assert (*sizes, mine.fixed_predictor_rate) == (512, 512, 128, True)


def test_an_unpublished_setting_is_that_of_a_sister():
    for data, size in (("tinyimagenet", 64), ("stl10", 96)):
        for method in ("mocov2", "byol", "simsiam"):
            mine, sister = load_recipe(f"{data}-{method}"), load_recipe(f"cifar10-{method}")
            changed = differences(sister.to_dict(), mine.to_dict())
            assert changed == [f"image_size: 32 -> {size}"]
    for method in ("simclr", "mocov1", "mocov2", "simsiam"):
        assert load_recipe(f"in200-{method}") == load_recipe(f"in1k-{method}")
    simclr, simsiam = load_recipe("in1k-simclr"), load_recipe("in1k-simsiam")
    # arXiv:2002.05709, appendix B.1: 0.075 sqrt(batch size); arXiv:2011.10566, section 4.
    assert simclr.optimizer.lr == pytest.approx(0.075 * simclr.batch_size**0.5, rel=1e-3)
    assert simsiam.optimizer.lr == pytest.approx(0.05 * simsiam.batch_size / 256)


@pytest.mark.parametrize("name", AUTHORS)
def test_learning_rates_fall_as_the_authors_do(name):
    settings = load_recipe(name).optimizer
    if settings.schedule != "cosine":
        assert name.endswith("mocov1")
        return
    # decay_rate = 0.1 on small images and 0 on ImageNet: what is left of the peak at the end.
    epochs, left = (500, 0.1) if name.startswith(SMALL) else (100, 0.0)
    for epoch in (0, 1, epochs // 3, epochs - 1):
        half_cosine = (1 + math.cos(math.pi * epoch / epochs)) / 2
        wanted = settings.lr * (left + (1 - left) * half_cosine)
        assert settings.rate(10 * epoch, 10 * epochs, 10) == pytest.approx(wanted)


@pytest.mark.parametrize("data", LARGE)
def test_mocov1_goes_on_learning_after_epoch_60(data):
    settings = load_recipe(f"{data}-mocov1").optimizer
    steps = [10 * epoch + 5 for epoch in (0, 59, 60, 79, 80, 99)]
    rates = [settings.rate(step, 1000, 10) for step in steps]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_a_recipe_of_its_name_that_it_can_be_built_from(name):
    recipe = load_recipe(name, ['backbone="small"'])
    assert recipe.method.name == name
    assert type(build_method(recipe.method, recipe.backbone)) is METHODS[name]


def test_norms_and_biases_decay_where_they_do_in_the_authors_programs():
    # One group of parameters in MoCo v1, v2, SimSiam and LeJEPA; LARS leaves out what has one
    # dimension, and so does DINO (utils.get_params_groups of facebookresearch/dino).
    decay = {name for name in METHODS if load_recipe(name).optimizer.decay_norms_and_biases}
    assert decay == {"mocov1", "mocov2", "simsiam", "lejepa"}


def test_the_table_of_optimizers_in_the_docs_is_that_of_the_recipes():
    names = [*METHODS, *(name for name in bundled_recipes() if name.endswith("-vit"))]
    rows = {}
    for line in (ROOT / "docs/recipes.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[0].strip("`") in names:
            rows[cells[0].strip("`")] = cells[1:6]
    assert sorted(rows) == sorted(names)
    for name, (kind, lr, decay, warmup, windows) in rows.items():
        recipe = load_recipe(name)
        mine, local = recipe.optimizer, recipe.local_views
        assert (mine.name, mine.lr) == (kind.lower(), float(lr.removesuffix(" in steps")))
        last = [mine.final_weight_decay] if mine.final_weight_decay >= 0 else []
        assert [float(number) for number in decay.split(" to ")] == [mine.weight_decay, *last]
        assert int(warmup) == mine.lr_warmup_epochs
        percents = [round(100 * share) for share in (recipe.crop.scale[0], *local.scale)]
        numbers = [int(number) for number in re.findall(r"\d+", windows)]
        assert numbers == (percents if local.count else percents[:1])
