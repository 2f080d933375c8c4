"""Every method through the driver: views, a refresh, a checkpoint, and on from it."""

import math

import pytest
import torch

from ccrop_pipeline.base import Observer
from ccrop_pipeline.boxset import validate
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Scenes, open_source, pack
from ccrop_pipeline.methods import METHODS
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Inputs, Machine, Trainer, load_checkpoint

NARROW = {
    "mocov1": ["queue_size=32"],
    "mocov2": ["queue_size=32"],
    "mocov3": ["hidden_dim=32", "projection_dim=16"],
    "byol": ["hidden_dim=32", "projection_dim=16"],
    "simsiam": ["hidden_dim=32", "projection_dim=32", "prediction_hidden_dim=16"],
    "dino": ["hidden_dim=32", "bottleneck_dim=16", "projection_dim=64"],
    "barlowtwins": ["hidden_dim=32", "projection_dim=32"],
    "vicreg": ["hidden_dim=32", "projection_dim=32"],
    "lejepa": ["hidden_dim=32", "projection_dim=32"],
}
COMMON = [
    "backbone=small",
    "image_size=32",
    "batch_size=16",
    "epochs=4",
    "boxes.refresh_at=[0.5]",
    "optimizer.lr_warmup_epochs=0",
    "optimizer.schedule=cosine",
    "optimizer.milestones=[]",
    "probe.k=10",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tars"
    pack(Scenes(34, size=32), folder, max_images=20)
    return open_source(folder)


def recipe(method, *settings):
    own = [f"method.{setting}" for setting in NARROW.get(method, [])]
    small = ["local_views.size=16"] if method in ("dino", "lejepa") else []
    return load_recipe(method, [*COMMON, *own, *small, *settings])


class StopAfter(Observer):
    def __init__(self, epoch):
        self.epoch = epoch

    def epoch_done(self, record):
        if record["epoch"] == self.epoch:
            raise KeyboardInterrupt


def trained(source, folder, settings, observer=None):
    trainer = Trainer(Inputs(source), folder, settings, Machine(), observer or Observer())
    trainer.train()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_refreshes_and_goes_on_where_it_was_stopped(source, tmp_path, method):
    whole = trained(source, tmp_path / "whole", recipe(method))
    records = whole.run.metrics()
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    assert all(math.isfinite(record["loss"]) for record in records)
    assert all(record["embedding_std"] > 0 for record in records)
    assert validate(tmp_path / "whole/boxes/epoch-0002") == []
    with pytest.raises(KeyboardInterrupt):
        trained(source, tmp_path / "again", recipe(method), StopAfter(3))
    trained(source, tmp_path / "again", recipe(method))
    first, second = (load_checkpoint(tmp_path / name) for name in ("whole", "again"))
    assert first.method.keys() == second.method.keys()
    assert all(torch.equal(first.method[name], second.method[name]) for name in first.method)


def test_views_of_a_recipe_second_colours_and_local_views(source):
    byol, dino = recipe("byol").view_groups(), recipe("dino").view_groups()
    assert [(group.count, group.size) for group in byol] == [(1, 32), (1, 32)]
    assert byol[0].augment != byol[1].augment
    assert [group.count for group in dino] == [1, 1, recipe("dino").local_views.count]
    assert (dino[2].size, dino[2].crop.scale) == (16, recipe("dino").local_views.scale)
    assert dino[2].crop.scale[1] < 1
    # Global views of DINO: blurred always and a tenth of the time; local ones: half of the time.
    assert [group.augment.blur_p for group in dino] == [1.0, 0.1, 0.5]
    assert [group.augment.solarize_p for group in dino] == [0.0, 0.2, 0.0]
    plain = recipe("simclr", "local_views.count=2", "local_views.size=16").view_groups()
    assert plain[1].augment == plain[0].augment
    (simclr,) = recipe("simclr").view_groups()
    assert (simclr.count, simclr.augment) == (2, recipe("simclr").augment)


def test_accumulated_parts_add_up_to_the_mean_of_their_gradients(source, tmp_path):
    """One step of two parts against the gradients of the two parts by hand."""
    settings = recipe(
        "simclr", "accumulate=2", "epochs=1", "boxes.kind=none", "precision=fp32",
        "optimizer.name=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0",
        "optimizer.lr=0.5", "optimizer.schedule=constant", "batch_size=32", "probe.every=0",
    )  # fmt: skip
    trainer = Trainer(Inputs(source), tmp_path / "run", settings, Machine(), Observer())
    assert len(trainer.loader) == 2  # parts of 16, of which a step takes both
    method = trainer.learner.method
    before = [weight.detach().clone() for weight in method.parameters()]
    sums = [torch.zeros_like(weight) for weight in before]
    losses = []
    for batch in trainer.loader:
        method.train()
        (views,) = batch.views
        output = method(list(views))
        output.loss.backward()
        losses.append(output.loss.item())
        for total, weight in zip(sums, method.parameters(), strict=True):
            total += weight.grad / 2
            weight.grad = None
    trainer.train()
    for weight, old, gradient in zip(method.parameters(), before, sums, strict=True):
        torch.testing.assert_close(weight.detach(), old - 0.5 * gradient, rtol=1e-4, atol=1e-6)
    assert trainer.run.metrics()[0]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_gradients_longer_than_asked_for_are_scaled_down_together(source, tmp_path):
    """One step of SGD against the closed form, with a third of the gradient's own norm."""
    one_step = (
        "epochs=1", "boxes.kind=none", "precision=fp32", "optimizer.name=sgd",
        "optimizer.momentum=0", "optimizer.weight_decay=0", "optimizer.lr=0.5",
        "optimizer.schedule=constant", "batch_size=32", "probe.every=0",
    )  # fmt: skip

    def step(name, clip_norm):
        settings = recipe("simclr", *one_step, f"optimizer.clip_norm={clip_norm}")
        trainer = Trainer(Inputs(source), tmp_path / name, settings, Machine(), Observer())
        before = [weight.detach().clone() for weight in trainer.learner.method.parameters()]
        trainer.train()
        after = trainer.learner.method.parameters()
        return [(old - new.detach()) / 0.5 for old, new in zip(before, after, strict=True)]

    gradients = step("free", 0)
    norm = math.sqrt(sum((part.double() ** 2).sum().item() for part in gradients))
    for clipped, part in zip(step("clipped", norm / 3), gradients, strict=True):
        torch.testing.assert_close(clipped, part / 3, rtol=1e-3, atol=1e-5)
    for whole, part in zip(step("long", norm * 3), gradients, strict=True):
        torch.testing.assert_close(whole, part, rtol=0, atol=0)


@pytest.mark.slow
def test_clipped_gradients_that_are_not_finite_end_the_run_as_any_others_do(source, tmp_path):
    one_epoch = ("epochs=1", "boxes.kind=none", "precision=fp32", "probe.every=0")
    steep = ("optimizer.lr=10000", "optimizer.weight_decay=1", "batch_size=4")
    settings = recipe("dino", *one_epoch, *steep)
    assert settings.optimizer.clip_norm == 3
    with pytest.raises(CcropError, match=r"the loss of epoch 1 is nan.*optimizer\.lr"):
        trained(source, tmp_path / "run", settings)
