import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from ccrop_pipeline.base import Observer
from ccrop_pipeline.boxset import BoxSet, validate, write_manifest, write_shard
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.images import Sample, Scenes, open_source, pack
from ccrop_pipeline.localize import BoxRule, Localizer
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Inputs, Machine, Metrics, Run, Trainer, load_checkpoint, train

SETTINGS = [
    "image_size=32",
    "eval_size=0",
    "boxes.threshold=0.1",
    "epochs=4",
    "batch_size=16",
    "boxes.refresh_at=[0.5]",
    "optimizer.lr_warmup_epochs=0",
    "probe.every=2",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tars"
    pack(Scenes(48, size=32), folder, max_images=10)
    return open_source(folder)


def recipe(*settings):
    return load_recipe("demo", [*SETTINGS, *settings])


def trained(source, folder, *settings, observer=None, workers=0, overwrite=False, **inputs):
    machine = Machine(workers=workers, resident_gb=0)
    inputs = Inputs(source, **inputs)
    observer = observer or Observer()
    trainer = Trainer(inputs, folder, recipe(*settings), machine, observer, overwrite=overwrite)
    trainer.train()
    return trainer


def results(folder: Path):
    """All that must not depend on kills: weights, optimizer, boxes, and metrics but for times."""
    checkpoint = load_checkpoint(folder)
    boxes = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "boxes").glob("*/*"))
        if path.is_file() and path.name[0] != "."  # what a killed writer leaves behind
    }
    timeless = [
        {name: record.get(name) for name in ("epoch", "boxes", "loss", "lr", "knn")}
        for record in Run(folder).metrics()
    ]
    return checkpoint.epoch, checkpoint.method, checkpoint.optimizer, boxes, timeless


def assert_same(first: Path, second: Path):
    one, two = results(first), results(second)
    assert one[0] == two[0]
    assert one[1].keys() == two[1].keys()
    for name in one[1]:
        assert torch.equal(one[1][name], two[1][name]), name
    for a, b in zip(one[2]["state"].values(), two[2]["state"].values(), strict=True):
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])
    assert one[3:] == two[3:]


@pytest.mark.slow
def test_the_rule_sets_itself_at_each_refresh(source, tmp_path):
    settings = ("boxes.threshold=auto", "boxes.refresh_epochs=[1, 3]", "probe.every=0")
    trained(source, tmp_path / "run", *settings)
    made = [
        BoxSet.open(tmp_path / "run/boxes" / name).manifest.provenance.localizer
        for name in ("epoch-0001", "epoch-0003")
    ]
    assert [localizer.choice.images for localizer in made] == [48, 48]
    assert made[0].choice.kappa != made[1].choice.kappa
    checkpoint = load_checkpoint(tmp_path / "run/checkpoints/epoch-0003.pt")
    again = compute_boxes(source, Localizer(checkpoint.encoder()), tmp_path / "boxes")
    assert again.manifest == BoxSet.open(tmp_path / "run/boxes/epoch-0003").manifest


class KillAt(Observer):
    """Kills its own process, with no chance to clean up, at the n-th event of a kind."""

    def __init__(self, event, count):
        self.event, self.left = event, count

    def _count(self, event):
        if event == self.event:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)

    def stage(self, stage):
        self._count("refresh begins" if stage["stage"] == "refresh" else "stage begins")

    def step(self, report):
        self._count("step")

    def epoch_done(self, record):
        self._count("epoch")

    def images_done(self, images, shard="", stages=None):
        self._count("located")

    def refreshed(self, boxes, seconds):
        self._count("refreshed")


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "undisturbed"
    trained(source, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "count"),
    [
        ("stage begins", 1),
        ("step", 5),  # warm-up, second epoch of three steps
        ("epoch", 2),
        ("refresh begins", 1),
        ("located", 1),
        ("located", 3),
        ("refreshed", 1),
        ("stage begins", 2),
        ("step", 8),  # training from boxes
        ("epoch", 4),
    ],
)
def test_a_killed_run_ends_as_if_it_had_never_been_killed(
    source, undisturbed, tmp_path, event, count
):
    folder = tmp_path / "run"
    child = multiprocessing.get_context("fork").Process(
        target=trained, args=(source, folder), kwargs={"observer": KillAt(event, count)}
    )
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    trained(source, folder)
    assert_same(folder, undisturbed)


@pytest.mark.slow
def test_loader_processes_change_nothing(source, undisturbed, tmp_path):
    trained(source, tmp_path / "run", workers=2)
    assert_same(tmp_path / "run", undisturbed)


def test_a_run_leaves_what_it_promises(source, undisturbed):
    run = undisturbed
    assert validate(run / "boxes/epoch-0002") == []
    assert load_checkpoint(run / "checkpoints/epoch-0002.pt").epoch == 2
    metrics = Run(run).metrics()
    assert [record["epoch"] for record in metrics] == [1, 2, 3, 4]
    assert [record["boxes"] for record in metrics] == [None, None, *["boxes/epoch-0002"] * 2]
    assert ["knn" in record for record in metrics] == [False, True, False, True]
    assert all(0 <= record["data_wait"] <= 1 < record["images_per_s"] for record in metrics)
    assert [record.get("knn_seconds", 0) > 0 for record in metrics] == [False, True, False, True]
    (start,) = Metrics(run).records("start")
    named = ("epoch", "images", "device", "processes")
    assert [start[name] for name in named] == [0, 48, "cpu", 1]
    assert torch.__version__.startswith(start["libraries"]["torch"])
    assert datetime.now(UTC) - datetime.fromisoformat(start["at"]) < timedelta(hours=1)


def test_each_start_of_a_run_is_noted_and_none_of_a_complete_one(source, undisturbed, tmp_path):
    class Stop(Observer):
        def epoch_done(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(source, tmp_path / "run", observer=Stop())
    trained(source, tmp_path / "run")
    trained(source, tmp_path / "run")
    assert [record["epoch"] for record in Metrics(tmp_path / "run").records("start")] == [0, 1]


def test_boxes_of_a_refresh_are_those_of_the_checkpoint_before_it(source, undisturbed, tmp_path):
    encoder = load_checkpoint(undisturbed / "checkpoints/epoch-0002.pt").encoder()
    localizer = Localizer(encoder, "sum", BoxRule(0.1))
    again = compute_boxes(source, localizer, tmp_path / "boxes")
    made = BoxSet.open(undisturbed / "boxes/epoch-0002")
    assert again.manifest == made.manifest


def test_another_seed_gives_other_weights(source, undisturbed, tmp_path):
    trained(source, tmp_path / "run", "seed=1", "epochs=1", "boxes.kind=none")
    other, first = load_checkpoint(tmp_path / "run"), load_checkpoint(undisturbed)
    assert any(not torch.equal(other.method[key], first.method[key]) for key in first.method)


@pytest.mark.slow
def test_given_boxes_are_used_from_the_start_and_refreshed_on_demand(source, undisturbed, tmp_path):
    given = undisturbed / "boxes/epoch-0002"
    plain = trained(source, tmp_path / "a", "epochs=2", boxes=given)
    assert [record["boxes"] for record in plain.run.metrics()] == [str(given)] * 2
    assert not (tmp_path / "a/boxes").exists()
    again = trained(source, tmp_path / "b", "epochs=2", "boxes.refresh_every=1", boxes=given)
    used = [record["boxes"] for record in again.run.metrics()]
    assert used == [str(given), "boxes/epoch-0001"]
    assert validate(tmp_path / "b/boxes/epoch-0001") == []


@pytest.mark.slow
def test_a_run_with_other_settings_is_refused_until_overwritten(source, tmp_path):
    short = ("epochs=1", "boxes.kind=none")
    trained(source, tmp_path / "run", *short)
    with pytest.raises(CcropError, match=r"optimizer\.lr: .* -> 0\.5"):
        trained(source, tmp_path / "run", *short, "optimizer.lr=0.5")
    trainer = trained(source, tmp_path / "run", *short, "optimizer.lr=0.5", overwrite=True)
    assert trainer.run.metrics()[0]["lr"] < 0.5


def test_a_diverged_loss_ends_the_run_with_the_epoch_and_a_remedy(source, tmp_path):
    steep = ("optimizer.lr=10000", "optimizer.weight_decay=1", "batch_size=4", "epochs=1")
    with pytest.raises(CcropError, match=r"epoch 1 is nan.*optimizer\.lr"):
        trained(source, tmp_path / "run", "boxes.kind=none", *steep)
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_a_source_smaller_than_a_batch_is_refused_and_leaves_no_run(source, tmp_path):
    with pytest.raises(CcropError, match=r"48 images.*batch of 64"):
        trained(source, tmp_path / "run", "batch_size=64")
    assert not (tmp_path / "run").exists()


def test_unreadable_images_are_counted_and_the_run_goes_on(tmp_path):
    samples = list(Scenes(16, size=32).read("train-000000"))
    samples[3] = Sample(samples[3].key, b"no image", 0)
    pack(samples, tmp_path / "tars")
    listener, source = Warned(), open_source(tmp_path / "tars")
    trainer = trained(source, tmp_path / "run", "epochs=2", "probe.k=5", observer=listener)
    assert [record["unreadable"] for record in trainer.run.metrics()] == [1, 1]
    (warning,) = listener.warnings  # once, and not in every epoch
    assert warning.startswith("1 image cannot be decoded, shown as grey")
    assert f": {samples[3].key} (cannot decode 8 bytes as an image" in warning
    assert "0x" not in warning
    (line,) = (tmp_path / "run/unreadable.txt").read_text().splitlines()
    assert line.startswith(f"{samples[3].key} (cannot decode 8 bytes as an image")
    assert f"{tmp_path / 'run/unreadable.txt'} lists all" in warning
    assert (
        BoxSet.open(tmp_path / "run/boxes/epoch-0001").manifest.statistics.counts["unreadable"] == 1
    )


def test_unreadable_images_are_listed_once_in_the_life_of_a_run(tmp_path):
    """All of those to train and to probe on."""
    for part, count in (("train", 30), ("test", 4)):
        samples = list(Scenes(count, size=32).read("train-000000"))
        for row in range(1, count, 2):
            samples[row] = Sample(f"{part} {row}", b"no image", row % 2)
        pack(samples, tmp_path / part)
    sources = [open_source(tmp_path / part) for part in ("train", "test")]
    why = "cannot decode 8 bytes as an image: it is no such image; re-create the file or leave it"
    bad = [f"train {row} ({why} out)" for row in range(1, 30, 2)]
    bad += [f"test {row} ({why} out)" for row in (1, 3)]
    short = ("epochs=1", "batch_size=30", "boxes.kind=none", "probe.every=1")
    listener = Warned()
    run = trained(
        sources[0], tmp_path / "run", *short, test_source=sources[1], observer=listener
    ).run
    listed = (run.folder / "unreadable.txt").read_text().splitlines()
    assert sorted(listed) == sorted(bad)
    first, second = listener.warnings
    assert first.startswith("15 images cannot be decoded")
    assert f"and 5 more; {run.folder / 'unreadable.txt'} lists all." in first
    assert second.startswith("2 images cannot be decoded")
    (run.folder / "checkpoint.pt").unlink()
    again = Warned()
    trained(sources[0], run.folder, *short, test_source=sources[1], observer=again)
    assert again.warnings == []
    assert (run.folder / "unreadable.txt").read_text().splitlines() == listed
    Run(run.folder).list_unreadable(["another (of an earlier state)"])
    trained(sources[0], run.folder, *short, test_source=sources[1], overwrite=True)
    assert sorted((run.folder / "unreadable.txt").read_text().splitlines()) == sorted(bad)


def test_a_resumed_run_keeps_the_optimizer_that_it_has_loaded(source, tmp_path):
    short = ("epochs=2", "boxes.kind=none", "optimizer.final_weight_decay=0.1")
    trainer = trained(source, tmp_path / "run", *short)
    groups = load_checkpoint(tmp_path / "run").optimizer["param_groups"]
    again = Trainer(trainer.inputs, tmp_path / "run", trainer.recipe, Machine(resident_gb=0))
    again.train()
    assert again.learner.state()[1]["param_groups"] == groups
    assert groups[0]["lr"] < trainer.recipe.optimizer.lr


@pytest.mark.slow
def test_a_run_is_resumed_with_the_very_same_boxes_only(source, tmp_path):
    """Box sets of one provenance may still differ, by a bug or on purpose."""
    first, other = tmp_path / "first", tmp_path / "other"
    fixed_boxes(source, first, "centre")
    manifest = BoxSet.open(first).manifest
    for shard, table in BoxSet.open(first).tables():
        boxes = table.boxes * np.float32(0.9)
        write_shard(other, shard, replace(table, boxes=boxes), manifest.provenance)
    write_manifest(other, source.shards, manifest.provenance)
    assert BoxSet.open(other).manifest.provenance == manifest.provenance
    short = ("epochs=1", "boxes.refresh_at=[]")
    run = trained(source, tmp_path / "run", *short, boxes=first).run
    with pytest.raises(CcropError, match=r"boxes: [0-9a-f]{12}\.\.\. -> [0-9a-f]{12}\.\.\."):
        trained(source, tmp_path / "run", *short, boxes=other)
    shutil.copytree(first, tmp_path / "copy")
    assert trained(source, tmp_path / "run", *short, boxes=tmp_path / "copy").epoch == 1
    address = f"memory://{tmp_path.name}/boxes"
    fsspec.filesystem("memory").put(f"{first}/", f"{address}/", recursive=True)
    remote = trained(source, tmp_path / "remote", *short, boxes=address).run
    assert [record["loss"] for record in remote.metrics()] == [
        record["loss"] for record in run.metrics()
    ]
    assert remote.metrics()[0]["boxes"] == address
    assert trained(source, tmp_path / "remote", *short, boxes=first).epoch == 1


@pytest.mark.slow
@pytest.mark.parametrize("overlapped", [False, True])
def test_given_boxes_may_have_moved_when_a_run_is_resumed(
    source, undisturbed, tmp_path, overlapped
):
    class Stop(Observer):
        def epoch_done(self, record):
            raise KeyboardInterrupt

    settings = ("epochs=2", "boxes.refresh_every=1", f"boxes.overlapped={str(overlapped).lower()}")
    localizer = Localizer(load_checkpoint(undisturbed).encoder(), "sum", BoxRule(0.1))
    given = tmp_path / "given"
    compute_boxes(source, localizer, given)
    whole = trained(source, tmp_path / "whole", *settings, boxes=given)
    with pytest.raises(KeyboardInterrupt):
        trained(source, tmp_path / "run", *settings, observer=Stop(), boxes=given)
    moved = given.rename(tmp_path / "moved")
    again = trained(source, tmp_path / "run", *settings, boxes=moved)
    # Nobody follows the run that leaves its boxes to others: it goes on with those it has.
    last = str(moved) if overlapped else "boxes/epoch-0001"
    assert [record["boxes"] for record in again.run.metrics()] == [str(given), last]
    assert [record["loss"] for record in again.run.metrics()] == [
        record["loss"] for record in whole.run.metrics()
    ]
    refreshes = [run.metrics.records("refresh") for run in (again, whole)]
    assert len(refreshes[0]) == (not overlapped)
    for one, other in zip(*refreshes, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


class Pause(Observer):
    """Stops at the first step until it is told to go on."""

    def __init__(self, reached, go):
        self.reached, self.go = reached, go

    def step(self, report):
        self.reached.set()
        self.go.wait(60)


@pytest.mark.slow
def test_a_run_has_one_writer_at_a_time(source, undisturbed, tmp_path):
    context, folder = multiprocessing.get_context("fork"), tmp_path / "run"
    reached, go = context.Event(), context.Event()
    first = context.Process(
        target=trained, args=(source, folder), kwargs={"observer": Pause(reached, go), "workers": 2}
    )
    first.start()
    assert reached.wait(60)
    for overwrite in (False, True):
        with pytest.raises(CcropError, match=f"being written by process {first.pid} on "):
            trained(source, folder, overwrite=overwrite)
    go.set()
    first.join(120)
    assert first.exitcode == 0
    assert_same(folder, undisturbed)


@pytest.mark.slow
def test_a_killed_run_is_resumed_at_once_though_its_loaders_still_live(
    source, undisturbed, tmp_path
):
    context, folder = multiprocessing.get_context("fork"), tmp_path / "run"
    reached = context.Event()
    first = context.Process(
        target=trained,
        args=(source, folder),
        kwargs={"observer": Pause(reached, context.Event()), "workers": 2},
    )
    first.start()
    assert reached.wait(60)
    first.kill()
    first.join()
    trained(source, folder)
    assert_same(folder, undisturbed)


def damage(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


class Warned(Observer):
    def __init__(self):
        self.warnings = []

    def warning(self, message):
        self.warnings.append(message)


@pytest.mark.slow
@pytest.mark.parametrize("also", [(), ("checkpoints/epoch-0003.pt",)])
def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    source, tmp_path, also
):
    twice = "boxes.refresh_at=[0.25, 0.75]"
    trained(source, tmp_path / "undisturbed", twice)
    folder, listener = tmp_path / "run", Warned()
    trained(source, folder, twice)
    for name in ("checkpoint.pt", *also):
        damage(folder / name)
    if also:  # computed from weights that may differ in their last digits
        (folder / "boxes/epoch-0003/manifest.json").write_text("{}")
    trained(source, folder, twice, observer=listener)
    assert_same(folder, tmp_path / "undisturbed")
    (warning,) = listener.warnings
    epoch = 1 if also else 3
    assert warning.startswith(f"{folder / 'checkpoint.pt'} is damaged")
    assert f"epoch-000{epoch}.pt. Training goes on after epoch {epoch}." in warning


@pytest.mark.slow
def test_a_run_whose_newest_checkpoint_is_missing_goes_on_from_the_one_before(source, tmp_path):
    twice = "boxes.refresh_at=[0.25, 0.75]"
    trained(source, tmp_path / "undisturbed", twice)
    folder, listener = tmp_path / "run", Warned()
    trained(source, folder, twice)
    (folder / "checkpoint.pt").unlink()
    trained(source, folder, twice, observer=listener)
    assert_same(folder, tmp_path / "undisturbed")
    (warning,) = listener.warnings
    assert warning.startswith(f"{folder / 'checkpoint.pt'} is missing. The one before is ")
    assert warning.endswith("epoch-0003.pt. Training goes on after epoch 3.")
    (folder / "checkpoint.pt").unlink()
    for name in ("epoch-0003.pt", "epoch-0001.pt"):
        damage(folder / "checkpoints" / name)
    with pytest.raises(CcropError, match=r"checkpoint\.pt is missing\..*start afresh"):
        trained(source, folder, twice)


def test_a_run_without_an_intact_checkpoint_is_left_as_it_is(source, tmp_path):
    folder = tmp_path / "run"
    trained(source, folder, "boxes.kind=none", "epochs=1")
    damage(folder / "checkpoint.pt")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        CcropError, match=r"checkpoint\.pt is damaged.*start afresh with `overwrite`"
    ):
        trained(source, folder, "boxes.kind=none", "epochs=1")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_processes_that_nobody_started_together_are_told_by_their_variables(
    source, tmp_path, monkeypatch
):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(CcropError, match=r"^RANK is 0 and WORLD_SIZE 2, but LOCAL_WORLD_SIZE is"):
        train(source, tmp_path / "run", recipe="cifar10-simclr-2core", device="cpu")
