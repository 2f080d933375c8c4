"""Resume, load and overwrite: three ways to go on."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from ccrop_pipeline.base import Observer
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Scenes, open_source, pack
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import (
    Inputs,
    Machine,
    Metrics,
    Run,
    StartingWeights,
    Trainer,
    load_checkpoint,
    loggers,
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


def trainer(
    source,
    folder,
    *settings,
    load=None,
    method="simclr",
    overwrite=False,
    observer=None,
    boxes=None,
    machine=None,
):
    recipe = load_recipe("demo", [*SETTINGS, *settings]) if method == "simclr" else None
    if recipe is None:
        own = ["backbone=small", "method.queue_size=32", *SETTINGS, *settings]
        recipe = load_recipe(method, own)
    inputs = Inputs(source, boxes=boxes, weights=StartingWeights(load) if load else None)
    machine = machine or Machine()
    return Trainer(inputs, folder, recipe, machine, observer or Observer(), overwrite=overwrite)


class Listener(Observer):
    def __init__(self):
        self.heard, self.epochs = "", []

    def loaded(self, note):
        self.heard += note

    def epoch_done(self, record):
        self.epochs.append(record["epoch"])


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
    with pytest.raises(CcropError, match=r"weights: \w+(\.\.\.)? -> None"):
        trainer(source, tmp_path / "run").train()


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


@pytest.mark.slow
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
        self.here = stage["stage"] == "refresh" and stage["epoch"] == self.epoch

    def images_done(self, images, shard="", stages=None):
        if self.here:
            raise KeyboardInterrupt


@pytest.mark.slow
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


@pytest.fixture
def run(source, tmp_path):
    """A finished run, with a box set and the images in its folder."""
    folder = tmp_path / "run"
    shutil.copytree(source.location, tmp_path / "data")
    settings = ["epochs=2", "boxes.kind=encoder", "boxes.refresh_at=[0.5]"]
    trainer(open_source(tmp_path / "data"), folder, *settings).train()
    (tmp_path / "data").rename(folder / "data")
    return folder


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_holds_what_the_next_is_made_from_is_not_deleted(source, run, monkeypatch):
    before = content(run)
    monkeypatch.chdir(run.parent)
    given = ["boxes.kind=encoder", "boxes.refresh_at=[]"]
    with pytest.raises(CcropError, match=r"the images are in the folder.*run/data/.*choose"):
        trainer(open_source("run/data"), run, overwrite=True)
    with pytest.raises(CcropError, match=r"`boxes`.*run/boxes/epoch-0001"):
        trainer(source, run, *given, boxes=Path("run/boxes/epoch-0001"), overwrite=True)
    for weights in (run, run / "checkpoint.pt"):
        with pytest.raises(CcropError, match="`load`"):
            trainer(source, run, load=weights, overwrite=True)
    assert content(run) == before
    others = trainer(source, run, *given, "boxes.refresh_at=[0.5]", "epochs=2", overwrite=True)
    with pytest.raises(CcropError, match=r"files that no run has written: data\. Move them"):
        others.train()
    assert content(run) == before


def test_a_refused_run_deletes_nothing(source, run, monkeypatch):
    before = content(run)
    with pytest.raises(CcropError, match="less than one batch"):
        trainer(source, run, "batch_size=64", overwrite=True)
    monkeypatch.setattr(loggers, "find_spec", lambda _package: None)
    with pytest.raises(CcropError, match="`log` is 'wandb', whose package is not installed"):
        trainer(source, run, machine=Machine(log=("wandb",)), overwrite=True)
    assert content(run) == before


def test_a_run_has_an_id_until_it_is_overwritten(source, tmp_path):
    folder = tmp_path / "run"
    assert Run(folder).id is None
    trainer(source, folder).train()
    first = Run(folder).id
    trainer(source, folder).train()
    assert Run(folder).id == first
    trainer(source, folder, overwrite=True).start()
    assert Run(folder).id not in (None, first)
    assert [path.name for path in folder.iterdir()] == ["run.json"]


@pytest.mark.slow
@pytest.mark.parametrize(("most", "trained"), [(1, []), (2, [1, 2]), (3, [1, 2])])
def test_deleting_that_was_stopped_leaves_the_old_run_or_one_that_begins_anew(
    source, run, monkeypatch, most, trained
):
    moved, rename = [], Path.rename
    settings = ["epochs=2", "boxes.kind=encoder", "boxes.refresh_at=[0.5]"]
    shutil.rmtree(run / "data")
    trainer(source, run, *settings, overwrite=True).train()

    def few_only(self, target):
        if len(moved) == most:
            raise KeyboardInterrupt
        moved.append(self.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", few_only)
    with pytest.raises(KeyboardInterrupt):
        trainer(source, run, *settings, overwrite=True).train()
    monkeypatch.undo()
    listener = Listener()
    trainer(source, run, *settings, observer=listener).train()
    assert listener.epochs == trained


FOREIGN = [
    "notes.txt",
    "plots/loss.png",
    "checkpoints/best.pt",
    "checkpoints/.mine",
    "boxes/mine/manifest.json",
    "boxes/epoch-0001/notes.md",
    "boxes/epoch-0001/data/extra.csv",
    "tensorboard/other.log",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_others_in_a_run_are_named_and_kept(source, run, name):
    shutil.rmtree(run / "data")
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text("precious")
    before = content(run)
    shown = re.escape(name.split("/")[0] if name.startswith("plots") else name)
    shown = "boxes/mine" if "mine/" in name else shown
    with pytest.raises(CcropError, match=rf"that no run has written: {shown}\. Move them"):
        trainer(source, run, overwrite=True).train()
    assert content(run) == before


@pytest.mark.slow
def test_what_a_run_writes_is_deleted_and_hidden_files_beside_it_are_not(source, run, tmp_path):
    settings = ["epochs=2", "boxes.kind=encoder", "boxes.refresh_at=[0.5]"]
    shutil.rmtree(run / "data")
    machine = Machine(log=("tensorboard",))
    trainer(source, run, *settings, overwrite=True, machine=machine).train()
    (run / ".git").mkdir()
    (run / ".git/HEAD").write_text("precious")
    (run / "boxes/epoch-0001/data/.x.parquet.0123456789abcdef.tmp").write_text("left by a kill")
    trainer(source, run, *settings, overwrite=True).start()
    assert {path.name for path in run.iterdir()} == {"run.json", ".git"}
    assert (run / ".git/HEAD").read_text() == "precious"


def test_until_the_first_checkpoint_a_run_may_be_started_anew(source, tmp_path):
    folder = tmp_path / "run"
    fixed = trainer(source, folder, "boxes.kind=centre", observer=StopAtTheFirstStep())
    with pytest.raises(KeyboardInterrupt):
        fixed.train()
    first = Run(folder).id
    assert (folder / "boxes/centre/manifest.json").is_file()
    (folder / "notes.txt").write_text("precious")
    with pytest.raises(CcropError, match=r"no run has written: notes\.txt"):
        trainer(source, folder, "seed=5").train()
    (folder / "notes.txt").unlink()
    trainer(source, folder, "seed=5").train()
    assert Run(folder).id != first
    assert {path.name for path in folder.iterdir()} == {
        "run.json",
        "metrics.jsonl",
        "checkpoint.pt",
    }
    with pytest.raises(
        CcropError,
        match=r"started differently:\n  recipe\.seed: 5 -> 0\n(.|\n)*"
        r"\(add `set` seed=5\)(.|\n)*set `load` to ",
    ):
        trainer(source, folder).train()


class StopAtTheFirstStep(Observer):
    def step(self, report):
        raise KeyboardInterrupt


def test_a_run_that_lost_its_newest_checkpoint_is_not_started_anew(source, run):
    shutil.rmtree(run / "data")
    (run / "checkpoint.pt").unlink()
    before = content(run)
    with pytest.raises(CcropError, match="started differently"):
        trainer(source, run, "seed=5").train()
    assert content(run) == before
