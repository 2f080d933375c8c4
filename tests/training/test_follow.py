"""Refreshes beside training."""

import json
import queue
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ccrop_cli.main import cli
from click.testing import CliRunner

from ccrop_pipeline.base import ALONE, Observer, Ranks
from ccrop_pipeline.boxset import BoxSet, validate
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Scenes, open_source, pack
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import (
    Inputs,
    Machine,
    Metrics,
    Run,
    Trainer,
    follow,
    load_checkpoint,
)
from ccrop_pipeline.training.refresh import refresh_boxes

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SETTINGS = ["image_size=32", "eval_size=0", "batch_size=16", "probe.every=0"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tars"
    pack(Scenes(32, size=32), folder, max_images=20)
    return open_source(folder)


def train(source, folder, *settings, observer=None):
    recipe = load_recipe("demo", [*SETTINGS, *settings])
    Trainer(Inputs(source), folder, recipe, Machine(), observer or Observer()).train()


def followed(folder, observer=None, ranks=ALONE):
    return follow(
        Run(folder),
        open_source,
        device=CPU,
        threads=1,
        observer=observer or Observer(),
        poll_seconds=0.02,
        ranks=ranks,
    )


class Until(Observer):
    """Waits at the end of an epoch until boxes of an epoch, or of a later one, are complete.

    A follower that is starved may find the next checkpoint when it looks for the first.
    """

    def __init__(self, folder, boxes_at):
        self.folder, self.boxes_at = folder, boxes_at

    def epoch_done(self, record):
        wanted = self.boxes_at.get(record["epoch"])
        given_up = time.monotonic() + 120
        while wanted and not self.complete(wanted):
            assert time.monotonic() < given_up
            time.sleep(0.02)

    def complete(self, wanted):
        made = self.folder.glob("boxes/epoch-*/manifest.json")
        return any(int(path.parent.name[-4:]) >= wanted for path in made)


OVERLAPPED = ["epochs=6", "boxes.refresh_at=[]", "boxes.refresh_every=1", "boxes.overlapped=true"]


def test_boxes_are_computed_beside_training_and_taken_up_when_complete(source, tmp_path):
    folder = tmp_path / "run"
    counts = []
    follower = threading.Thread(target=lambda: counts.append(followed(folder)))
    follower.start()  # before the run exists
    # A checkpoint is left after each epoch; boxes of the first are waited for at the second.
    train(source, folder, *OVERLAPPED, observer=Until(folder, {2: 1, 5: 3}))
    follower.join(60)
    assert not follower.is_alive()
    used = [record["boxes"] for record in Run(folder).metrics()]
    assert used[:2] == [None, None]
    assert all(used[2:])
    epochs = [int(boxes[-4:]) for boxes in used[2:]]
    assert epochs == sorted(epochs)
    assert all(made <= epoch for made, epoch in zip(epochs, range(2, 6), strict=True))
    for boxes in {*used} - {None}:
        assert validate(folder / boxes) == []
        checkpoint = load_checkpoint(folder / f"checkpoints/{boxes[6:]}.pt")
        made = BoxSet.open(folder / boxes).manifest.provenance.encoder
        assert made.weights_sha256 == checkpoint.encoder().info.weights_sha256
    taken = [record["boxes"] for record in Metrics(folder).records("refresh")]
    assert taken == list(dict.fromkeys(used[2:]))
    assert counts[0] >= len(taken)


class Beside(Observer):
    """Computes boxes at some refreshes, as another process would; after some epochs does more."""

    def __init__(self, source, folder, epochs, after=None):
        self.source, self.folder, self.epochs = source, folder, epochs
        self.after, self.heard = after or {}, []

    def stage(self, stage):
        if stage["stage"] == "refresh" and stage["epoch"] in self.epochs:
            refresh_boxes(self.folder, stage["epoch"], self.source, device=CPU, threads=1)

    def epoch_done(self, record):
        self.after.get(record["epoch"], lambda: None)()

    def refreshed(self, boxes, seconds):
        self.heard.append(Path(boxes).name)


def mean_iou(one, two):
    """Mean IoU of the boxes of each image, by areas of the union and of what it lacks."""
    a, b = (BoxSet.open(folder).read("data-000000", heatmaps=False).boxes for folder in (one, two))
    a, b = a.astype(np.float64), b.astype(np.float64)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = sides.clip(0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    return (shared / (sum(areas) - shared)).mean()


def test_boxes_are_announced_once_and_compared_with_those_before(tmp_path):
    pack(Scenes(32, size=32), tmp_path / "data")
    source, folder = open_source(tmp_path / "data"), tmp_path / "run"
    beside = Beside(source, folder, {1, 3})
    train(source, folder, *OVERLAPPED, "optimizer.lr=0.2", observer=beside)
    first, second = "boxes/epoch-0001", "boxes/epoch-0003"
    used = [record["boxes"] for record in Run(folder).metrics()]
    assert used == [None, first, first, second, second, second]
    assert beside.heard == ["epoch-0001", "epoch-0003"]
    records = Metrics(folder).records("refresh")
    assert [(record["epoch"], record["boxes"]) for record in records] == [(1, first), (3, second)]
    overlap = mean_iou(folder / first, folder / second)
    assert overlap < 0.999
    assert [record["iou_with_previous"] for record in records] == [None, round(overlap, 4)]


def test_boxes_in_use_are_not_read_again_for_each_epoch(source, tmp_path):
    folder, used = tmp_path / "run", "boxes/epoch-0001"
    gone = {2: lambda: shutil.rmtree(folder / used)}
    train(source, folder, *OVERLAPPED, observer=Beside(source, folder, {1}, gone))
    assert [record["boxes"] for record in Run(folder).metrics()] == [None, *[used] * 5]


def test_boxes_of_a_later_epoch_are_not_taken_up_before_it(source, tmp_path):
    folder = tmp_path / "run"
    sets = folder / "boxes"
    early = {2: lambda: shutil.copytree(sets / "epoch-0001", sets / "epoch-0005")}
    train(source, folder, *OVERLAPPED, observer=Beside(source, folder, {1}, early))
    used = [record["boxes"] for record in Run(folder).metrics()]
    assert used == [None, *["boxes/epoch-0001"] * 4, "boxes/epoch-0005"]


def test_a_run_that_is_taken_up_goes_on_with_the_boxes_it_had(source, tmp_path):
    folder = tmp_path / "run"

    def stop():
        raise KeyboardInterrupt

    beside = Beside(source, folder, {1}, {3: stop})
    with pytest.raises(KeyboardInterrupt):
        train(source, folder, *OVERLAPPED, observer=beside)
    again = Beside(source, folder, {4})
    train(source, folder, *OVERLAPPED, observer=again)
    used = [record["boxes"] for record in Run(folder).metrics()]
    assert used == [None, *["boxes/epoch-0001"] * 3, *["boxes/epoch-0004"] * 2]
    assert again.heard == ["epoch-0004"]
    assert Metrics(folder).records("refresh")[1]["iou_with_previous"] is not None


def train_until(source, folder, epoch):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(source, folder, *OVERLAPPED, observer=Beside(source, folder, (), {epoch: stop}))


class UntilOthers(Observer):
    """Stops following when there is nothing to do but to wait."""

    def __init__(self):
        self.refreshing_of, self.completed = [], []

    def waiting(self, what):
        self.waited_for = what
        raise KeyboardInterrupt

    def refreshing(self, epoch):
        self.refreshing_of.append(epoch)

    def refreshed(self, boxes, seconds):
        self.completed.append(Path(boxes).name)


def follow_rank(folder, rank):
    observer = UntilOthers()
    with pytest.raises(KeyboardInterrupt):
        followed(folder, observer, Ranks(rank, 2))
    return observer


def test_a_set_that_was_begun_is_completed_before_a_newer_checkpoint_is_taken(source, tmp_path):
    train_until(source, tmp_path, 3)  # leaves checkpoints after epochs 1 and 2
    first = follow_rank(tmp_path, 0)
    assert (first.refreshing_of, first.completed) == ([2], [])
    assert first.waited_for == "the other portions of boxes/epoch-0002"
    train_until(source, tmp_path, 5)
    second = follow_rank(tmp_path, 1)
    assert (second.refreshing_of, second.completed) == ([2, 4], ["epoch-0002"])
    again = follow_rank(tmp_path, 0)
    assert (again.refreshing_of, again.completed) == ([4], ["epoch-0004"])
    assert again.waited_for == "a checkpoint"
    assert validate(tmp_path / "boxes/epoch-0002") == []
    assert validate(tmp_path / "boxes/epoch-0004") == []


def test_a_follower_shows_at_once_which_set_it_has_begun(source, tmp_path):
    train_until(source, tmp_path, 3)

    class Look(UntilOthers):
        def begun(self, shards, kept):
            self.sets = [path.name for path in (tmp_path / "boxes").iterdir()]

    look = Look()
    with pytest.raises(KeyboardInterrupt):
        followed(tmp_path, look, Ranks(0, 2))
    assert look.sets == ["epoch-0002"]


def test_a_portion_without_the_others_waits_and_counts_for_nothing(source, tmp_path):
    waits = threading.Event()
    refreshing, counts = [], []

    class Follower(Observer):
        def refreshing(self, epoch):
            refreshing.append(epoch)

        def waiting(self, what):
            if "other portions" in what:
                waits.set()

    def work():
        counts.append(followed(tmp_path, Follower(), Ranks(0, 2)))

    follower = threading.Thread(target=work)
    follower.start()
    until = Beside(source, tmp_path, (), {2: lambda: waits.wait(60)})
    train(source, tmp_path, *OVERLAPPED, observer=until)
    follower.join(60)
    assert not follower.is_alive()
    assert waits.is_set()
    assert (refreshing, counts) == ([1], [0])


ARRAY = {
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "2",
    "SLURM_ARRAY_TASK_COUNT": "3",
}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
STEP = {
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "1",
}
TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "flags", "computed"),
    [
        ({}, [], {0, 1}),
        (ARRAY, [], {0, 1}),
        (ARRAY | BATCH_SCRIPT, [], {0, 1}),
        (ARRAY | STEP, [], {1}),
        (TORCHRUN, [], {1}),
        (TORCHRUN, ["--rank", "0", "--world-size", "2"], {0}),
    ],
)
def test_the_rank_comes_from_flags_torchrun_or_a_step(
    source, tmp_path, monkeypatch, environment, flags, computed
):
    train_until(source, tmp_path / "run", 2)

    def stop(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    line = ["boxes", "follow", str(tmp_path / "run"), "--device", "cpu", *flags]
    assert CliRunner().invoke(cli, line).exit_code == 130
    boxes = tmp_path / "run/boxes/epoch-0001"
    assert {path.name for path in boxes.glob("data/*.parquet")} == {
        f"data-{shard:06d}.parquet" for shard in computed
    }


def test_a_rank_that_does_not_exist_is_refused(source, tmp_path):
    train_until(source, tmp_path / "run", 2)
    for flags, message in [
        (["--rank", "1"], "--world-size"),
        (["--rank", "2", "--world-size", "2"], "ranks run from 0"),
    ]:
        line = ["boxes", "follow", str(tmp_path / "run"), "--device", "cpu", *flags]
        result = CliRunner().invoke(cli, line)
        assert result.exit_code == 1
        assert message in result.output


class Waits(Observer):
    """Tells of what a follower waits for, and of what it has completed."""

    def __init__(self):
        self.waits, self.completed = queue.Queue(), []

    def waiting(self, what):
        self.waits.put(what)

    def refreshed(self, boxes, seconds):
        self.completed.append(Path(boxes).name)

    def wait_for(self, what):
        while self.waits.get(timeout=60) != what:
            pass


def in_background(folder):
    """A follower in a thread: its observer, the thread and what it will have returned."""
    observer, counts = Waits(), []
    thread = threading.Thread(target=lambda: counts.append(followed(folder, observer)), daemon=True)
    thread.start()
    return observer, thread, counts


def test_a_follower_that_waits_turns_to_the_run_that_replaces_its_own(source, tmp_path):
    train_until(source, tmp_path / "run", 3)
    observer, thread, counts = in_background(tmp_path / "run")
    observer.wait_for("a checkpoint")
    # Other epochs, and other images: all that is known of the first run is of no use.
    pack(Scenes(32, size=32, seed=7), tmp_path / "data")
    recipe = load_recipe("demo", [*SETTINGS, *OVERLAPPED, "epochs=3"])
    until = Until(tmp_path / "run", {2: 1})
    Trainer(
        Inputs(open_source(tmp_path / "data")),
        tmp_path / "run",
        recipe,
        Machine(),
        until,
        overwrite=True,
    ).train()
    thread.join(60)
    assert not thread.is_alive()
    assert observer.completed[:2] == ["epoch-0002", "epoch-0001"]
    assert counts == [len(observer.completed)]
    made = BoxSet.open(tmp_path / "run/boxes/epoch-0001").manifest.provenance.source
    assert made.fingerprint == open_source(tmp_path / "data").fingerprint()


def test_boxes_of_a_run_that_was_replaced_meanwhile_are_deleted(source, tmp_path):
    train_until(source, tmp_path, 3)
    identity = json.loads((tmp_path / "run.json").read_text())
    known = {name: identity[name] for name in ("recipe", "source")}

    class Replaced(UntilOthers):
        def images_done(self, images, shard="", stages=None):
            Run(tmp_path).start(known, source.location, overwrite=True)

    observer = Replaced()
    with pytest.raises(KeyboardInterrupt):
        followed(tmp_path, observer)
    assert (observer.refreshing_of, observer.completed) == ([2], [])
    assert observer.waited_for == "a checkpoint"
    assert not any((tmp_path / "boxes").glob("*"))


def test_without_a_follower_training_goes_on_with_what_it_has(source, tmp_path):
    warnings = []

    class Heard(Observer):
        def warning(self, note):
            warnings.append(note)

    train(source, tmp_path / "run", *OVERLAPPED, observer=Heard())
    # Once, when there has been an epoch's time to compute them in.
    assert len(warnings) == 1
    assert "after 2 epochs no boxes" in warnings[0]
    assert [record["boxes"] for record in Run(tmp_path / "run").metrics()] == [None] * 6
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 5
    assert followed(tmp_path / "run") == 0  # the run has ended: nobody would use them


def test_a_run_that_computes_its_own_boxes_is_not_followed(source, tmp_path):
    train(source, tmp_path / "run", "epochs=2", "boxes.refresh_at=[0.5]")
    with pytest.raises(CcropError, match=r"boxes\.overlapped=true"):
        followed(tmp_path / "run")


def test_other_images_are_refused(source, tmp_path):
    moved = tmp_path / "data"
    shutil.copytree(source.location, moved)
    train(open_source(moved), tmp_path / "run", *OVERLAPPED)
    shutil.rmtree(moved)
    pack(Scenes(30, size=32), moved)
    with pytest.raises(CcropError, match="does not hold the images"):
        followed(tmp_path / "run")


def test_what_is_waited_for_is_named_and_what_cannot_come_is_refused(tmp_path):
    observer = UntilOthers()
    with pytest.raises(KeyboardInterrupt):
        followed(tmp_path / "run", observer)
    assert observer.waited_for == f"a run to begin in {tmp_path / 'run'}; there is none yet"
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CcropError, match=f"^{tmp_path} is not empty and holds no run"):
        followed(tmp_path)
    with pytest.raises(CcropError, match=r"notes.txt is a file, and a folder is needed there"):
        followed(tmp_path / "notes.txt")


def test_a_mistyped_path_of_a_run_is_refused(tmp_path):
    result = CliRunner().invoke(cli, ["boxes", "follow", str(tmp_path / "rnus/first")])
    assert result.exit_code == 1
    assert f"there is no folder {tmp_path / 'rnus'}." in result.stderr
