"""Resume, load and overwrite: three ways to go on."""

import pytest
import torch

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.sources import Scenes, open_source, pack
from ccrop_pipeline.train import (
    Inputs,
    Machine,
    Metrics,
    Observer,
    RefreshStage,
    StartingWeights,
    Trainer,
    load_checkpoint,
    load_recipe,
)

SETTINGS = [
    "image_size=32",
    "eval_size=0",
    "epochs=1",
    "batch_size=16",
    "boxes.kind=none",
    "optimizer.lr_warmup_epochs=0",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tars"
    pack(Scenes(32, size=32), folder)
    return open_source(folder)


@pytest.fixture(scope="module")
def first(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "first"
    trainer(source, folder).train()
    return folder


def trainer(source, folder, *settings, load=None, method="simclr", overwrite=False, observer=None):
    recipe = load_recipe("demo", [*SETTINGS, *settings]) if method == "simclr" else None
    if recipe is None:
        own = ["backbone=small", "method.queue_size=32", *SETTINGS, *settings]
        recipe = load_recipe(method, own)
    inputs = Inputs(source, weights=StartingWeights(load) if load else None)
    return Trainer(inputs, folder, recipe, Machine(), observer or Observer(), overwrite)


class Listener(Observer):
    heard = ""

    def loaded(self, note):
        self.heard += note


def test_loading_begins_at_epoch_0_with_all_weights_of_the_same_method(source, first, tmp_path):
    listener = Listener()
    run = trainer(source, tmp_path / "run", "seed=5", load=first, observer=listener)
    saved = load_checkpoint(first).method
    assert run.epoch == 0
    state = run.learner.method.state_dict()
    assert all(torch.equal(state[name], saved[name]) for name in saved)
    run.train()
    assert "all weights" in listener.heard
    assert [record["epoch"] for record in run.run.metrics()] == [1]


def test_another_method_takes_the_encoder_only(source, first, tmp_path):
    run = trainer(source, tmp_path / "run", load=first / "checkpoint.pt", method="mocov2")
    saved = load_checkpoint(first).backbone().state_dict()
    for encoder in (run.learner.method.backbone, run.learner.method.momentum_backbone):
        state = encoder.state_dict()
        assert all(torch.equal(state[name], saved[name]) for name in saved)
    assert "online encoder" in run.learner.started_from
    assert "simclr" in run.learner.started_from


def test_a_loaded_run_resumes_as_itself_and_not_with_other_weights(source, first, tmp_path):
    trainer(source, tmp_path / "run", load=first).train()
    again = trainer(source, tmp_path / "run", load=first)
    again.train()
    assert again.epoch == 1
    with pytest.raises(CcropError, match=r"weights: \w+ -> None"):
        trainer(source, tmp_path / "run")


def test_weights_of_another_backbone_or_shape_are_refused(source, first, tmp_path):
    with pytest.raises(CcropError, match=r"backbone 'small'.*'resnet18-cifar'"):
        trainer(source, tmp_path / "run", "backbone=resnet18-cifar", load=first)
    with pytest.raises(CcropError, match="do not fit this recipe"):
        trainer(source, tmp_path / "run", "method.projection_dim=7", load=first)
    with pytest.raises(CcropError, match="no checkpoint"):
        trainer(source, tmp_path / "run", load=tmp_path)
    assert not (tmp_path / "run").exists()


def test_the_fingerprint_of_weights_changes_with_any_of_them(first):
    one, other = StartingWeights(first), StartingWeights(first)
    assert one.fingerprint == other.fingerprint
    changed = StartingWeights(first)
    changed.checkpoint.method["backbone.layer1.0.weight"][3, 0, 1, 2] += 1
    assert changed.fingerprint != one.fingerprint


MOMENTUM = [
    "epochs=2",
    "boxes.kind=encoder",
    "boxes.refresh_at=[0.5]",
    "boxes.refresh_from=momentum",
]


def test_a_momentum_encoder_that_is_not_there_is_refused_before_the_first_step(source, tmp_path):
    with pytest.raises(CcropError, match="simclr has no momentum encoder"):
        trainer(source, tmp_path / "run", *MOMENTUM)
    assert not (tmp_path / "run").exists()


def test_boxes_from_the_momentum_encoder_are_recorded_as_its_own(source, tmp_path):
    sets = {}
    for which in ("online", "momentum"):
        settings = [
            "epochs=2",
            "boxes.kind=encoder",
            "boxes.refresh_at=[0.5]",
            f"boxes.refresh_from={which}",
            "method.encoder_momentum=0.5",
            "precision=fp32",
            "optimizer.lr=0.05",
        ]
        run = trainer(source, tmp_path / which, *settings, method="mocov2")
        run.train()
        made = BoxSet.open(tmp_path / which / "boxes/epoch-0001").manifest.provenance.encoder
        sets[which] = made.weights_sha256
        checkpoint = load_checkpoint(tmp_path / which / "checkpoints/epoch-0001.pt")
        assert checkpoint.encoder(which=which).info.weights_sha256 == sets[which]
    assert sets["online"] != sets["momentum"]


class StopIn(Observer):
    """Stops a run in the refresh after an epoch."""

    def __init__(self, epoch):
        self.epoch, self.here = epoch, False

    def stage(self, stage):
        self.here = isinstance(stage, RefreshStage) and stage.epoch == self.epoch

    def images_located(self, shard, images, stages):
        if self.here:
            raise KeyboardInterrupt


def test_a_refresh_that_was_stopped_is_still_compared_with_the_boxes_before_it(source, tmp_path):
    settings = ["epochs=3", "boxes.kind=encoder", "boxes.refresh_at=[]", "boxes.refresh_every=1"]
    trainer(source, tmp_path / "whole", *settings).train()
    with pytest.raises(KeyboardInterrupt):
        trainer(source, tmp_path / "run", *settings, observer=StopIn(2)).train()
    trainer(source, tmp_path / "run", *settings).train()
    whole, again = (
        [record | {"seconds": 0} for record in Metrics(tmp_path / name).records("refresh")]
        for name in ("whole", "run")
    )
    assert again == whole
    assert [record["iou_with_previous"] is None for record in again] == [True, False]
