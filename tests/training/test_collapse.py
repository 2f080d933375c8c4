"""The rank of embeddings against NumPy and closed forms; verdicts, and what ends by them."""

import math
import re

import numpy as np
import pytest
import torch
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline.localize import build_backbone
from ccrop_pipeline.methods import METHODS
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Run, load_checkpoint
from ccrop_pipeline.training.collapse import NewestRows, chance_loss, given_up, judge, rankme


def effective_rank(rows):
    """Equation 1 of RankMe, directly."""
    singular = np.linalg.svd(np.asarray(rows, np.float64), compute_uv=False)
    p = singular / singular.sum() + 1e-7
    return math.exp(-sum(each * math.log(each) for each in p))


@pytest.mark.parametrize("shape", [(200, 30), (30, 200), (50, 50)])
@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0, 5.0])
def test_rankme_is_that_of_a_singular_value_decomposition(shape, decay):
    generator = torch.Generator().manual_seed(1)
    scales = torch.arange(1, shape[1] + 1) ** -decay
    rows = torch.randn(shape, generator=generator) * scales + 0.3
    assert rankme(rows) == pytest.approx(effective_rank(rows), rel=1e-5)
    assert rankme(1e6 * rows) == pytest.approx(rankme(rows), rel=1e-5)


def test_rankme_of_what_is_known_in_closed_form():
    generator = torch.Generator().manual_seed(2)
    orthonormal = torch.linalg.qr(torch.randn(64, 16, generator=generator)).Q
    assert rankme(orthonormal) == pytest.approx(16, rel=1e-4)
    assert rankme(orthonormal.T) == pytest.approx(16, rel=1e-4)
    point = torch.randn(1, 16, generator=generator)
    assert rankme(torch.rand(64, 1, generator=generator) * point) == pytest.approx(1, abs=1e-3)
    assert rankme(torch.zeros(64, 16)) == pytest.approx(1, abs=1e-3)
    # Two directions, one with three times the singular value of the other.
    two = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert rankme(two) == pytest.approx(4 / 27**0.25, rel=1e-5)
    assert math.isnan(rankme(torch.tensor([[1.0, math.inf]])))


def test_the_newest_rows_are_the_last_of_all_that_were_given():
    batches = torch.arange(5 * 700 * 3, dtype=torch.float32).reshape(5, 700, 3)
    rows, halves = NewestRows(), [NewestRows(0.5), NewestRows(0.5)]
    for batch in batches:
        rows.add(batch)
        for half, part in zip(halves, batch.chunk(2), strict=True):
            half.add(part)
    assert rows.all().tolist() == batches[-2:].flatten(0, 1).tolist()
    both = torch.cat([half.all() for half in halves])
    assert sorted(both.tolist()) == rows.all().tolist()


def test_wide_rows_are_fewer_and_copies():
    wide = torch.zeros(257, 65536)
    rows = NewestRows()
    rows.add(wide)
    wide += 1
    assert rows.all().shape == (256, 65536)
    assert rows.all().sum() == 0
    for dim, kept in ((1024, 2048), (1025, 1024)):
        rows = NewestRows()
        rows.add(torch.zeros(3000, dim))
        assert len(rows.all()) == kept


SIMCLR = load_recipe("demo")  # batches of 64: the loss of chance is log(127), 4.84


def record(loss=4.0, spread=0.9, rank=30.0, limit=128):
    return {"loss": loss, "embedding_std": spread, "rankme": rank, "rankme_limit": limit}


def probed(knn):
    return {**record(2 + knn), "knn": knn, "knn_chance": 0.1}


@pytest.mark.parametrize(
    ("records", "verdict", "why"),
    [
        ([record(4.5)], "not yet clear", "one epoch tells little"),
        ([record(4.5), record(4.4)], "learning", "embeddings fill 30 of 128 dimensions"),
        ([record(4.5), record(4.51)], "not yet clear", "the loss has not moved from 4.5"),
        ([record(4.6), record(4.83)], "not yet clear", "no better than that of chance, 4.84"),
        ([record(), record(3.0, rank=9.9)], "not yet clear", "fill only 9.9 of 128"),
        ([record(), record(3.0, spread=0.09)], "not yet clear", r"alike \(spread 0.090 of 1\)"),
        ([record(), record(3.0, rank=4.9)], "not yet clear", "a second such epoch"),
        ([record(rank=4), record(3.0, rank=6)], "not yet clear", "fill only 6 of 128"),
        ([record(rank=4), record(3.0, rank=3)], "collapsing", "fill only 3 of 128 .*, for two"),
        ([record(spread=0.01), record(rank=1)], "collapsing", "or lower method.temp"),
        # Far too high a rate: rank and spread alone do not tell.
        ([record(5.0)] * 2, "not yet clear", "no better than that of chance, 4.84$"),
        ([record(5.0, rank=7)] * 3, "not learning", "chance, 4.84, for 3 epochs: lower optim"),
        ([record(5.0), record(4.9), record(5.0)], "not yet clear", "stays so, lower optimizer.lr"),
        ([record(), probed(0.1)], "not yet clear", "10.0%, is no better than chance, 10.0%; if"),
        ([probed(0.1), record(3.0), probed(0.09)], "not learning", "9.0%, .*two probes: lower"),
        ([probed(0.1), record(3.0)], "learning", ""),
        ([probed(0.1), probed(0.13)], "learning", ""),
        # Few dimensions are not few of few.
        ([record(limit=16, rank=4.5), record(3.0, limit=16, rank=4.5)], "learning", "4.5 of 16"),
        ([record(limit=16, rank=1.9), record(3.0, limit=16, rank=1.9)], "collapsing", "1.9 of 16"),
    ],
)  # fmt: skip
def test_a_verdict_follows_from_spread_rank_and_loss(records, verdict, why):
    found = judge(records, SIMCLR)
    assert (found.verdict, bool(re.search(why, found.why))) == (verdict, True), found


@pytest.mark.parametrize(
    ("records", "before", "last"),
    [
        ([record(), record(3.0, rank=4.9)], "; a second such epoch", "dimensions$"),
        (
            [record(), probed(0.1)],
            "if the next probe says so too, lower",
            "10.0%; begin another run, with more epochs or a",
        ),
        (
            [record(5.0), record(4.9), record(5.0)],
            "if it stays so, lower",
            "lower .*, in another run$",
        ),
    ],
)
def test_the_verdict_of_the_last_epoch_waits_for_no_other(records, before, last):
    assert re.search(before, judge(records, SIMCLR).why)
    ended = load_recipe("demo", [f"epochs={len(records)}", "boxes.kind=none"])
    told = judge(records, ended)
    assert told.verdict == "not yet clear"
    assert re.search(last, told.why)
    assert not re.search("next|second|stays", told.why)


@pytest.mark.parametrize(
    ("verdicts", "wrong"),
    [
        (["learning", "collapsing"], "collapses"),
        (["not learning"] * 2, None),
        (["not yet clear"] + ["not learning"] * 3, "does not learn"),
        (["not learning", "learning", "not learning", "not learning"], None),
        (["collapsing", "not yet clear"], None),
    ],
)
def test_a_run_is_given_up_by_its_verdicts(verdicts, wrong):
    assert given_up([{"verdict": verdict} for verdict in verdicts]) == wrong


def test_the_outputs_of_dino_may_be_closer_to_each_other():
    dino = load_recipe("dino")
    for rank, spread, verdict in [(5.1, 0.051, "learning"), (2.6, 0.9, "not yet clear")]:
        records = [record(8.0), *[record(7.0, rank=rank, spread=spread)] * 2]
        assert judge(records, dino).verdict == verdict
    for low in ({"rank": 2.4}, {"spread": 0.024}):
        assert judge([record(7.0, **low)] * 2, dino).verdict == "collapsing"


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_of_chance_is_that_of_embeddings_that_are_all_alike(method):
    small = {
        "dino": ["method.projection_dim=64"],
        "simclr": [],
        "mocov3": ["method.temperature=0.5"],
    }
    small |= {name: ["method.queue_size=48"] for name in ("mocov1", "mocov2")}
    recipe = load_recipe(method, ["batch_size=32", "accumulate=2", *small.get(method, [])])
    chance = chance_loss(recipe)
    assert (chance is not None) == (method in small)
    if chance is None:
        return
    criterion = METHODS[method](build_backbone("small"), recipe.method).criterion
    alike = torch.ones(16, recipe.method.projection_dim)
    if method == "dino":
        loss = criterion([alike, alike], [alike, alike])
    elif method == "mocov3":
        loss = 2 * criterion(alike, alike)
    else:
        if method != "simclr":
            criterion.memory_bank.keys.fill_(128**-0.5)
        loss = criterion(alike, alike)
    assert loss.item() == pytest.approx(chance, rel=1e-5)


def test_a_run_that_collapses_ends_with_its_checkpoint_where_that_is_wanted(tmp_path):
    """Images that are all the same, without any augmentation, have the same embeddings."""
    for number in range(16):
        Image.new("RGB", (32, 32), (200, 100, 50)).save(tmp_path / f"{number}.png")
    plain = {"crop.scale": "[1, 1]", "crop.ratio": "[1, 1]", "augment.jitter_p": 0}
    plain |= {"augment.grayscale_p": 0, "boxes.kind": "none", "epochs": 4, "batch_size": 8}
    plain |= {"image_size": 32, "eval_size": 0, "optimizer.lr_warmup_epochs": 0}
    settings = [f"--set={name}={value}" for name, value in plain.items()]
    command = ["train", str(tmp_path), str(tmp_path / "run"), "--recipe", "demo", *settings]
    stopped = CliRunner().invoke(cli, [*command, "--stop-on-collapse"])
    assert stopped.exit_code == 1
    assert re.search(
        r"run collapses after epoch 2: .*alike.*without --stop-on-coll", stopped.stderr
    )
    assert "not yet clear: embeddings of all images are alike (spread 0.000 of 1)" in stopped.stderr
    run = Run(tmp_path / "run")
    assert [each["verdict"] for each in run.metrics()] == ["not yet clear", "collapsing"]
    assert load_checkpoint(run.folder).epoch == 2
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert [each["rankme"] for each in run.metrics()] == [pytest.approx(1, abs=0.1)] * 4
