"""Refreshes beside training."""

import shutil
import threading

import pytest
import torch

from ccrop_pipeline.boxset import BoxSet, validate
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.sources import Scenes, open_source, pack
from ccrop_pipeline.train import (
    FollowObserver,
    Inputs,
    Machine,
    Metrics,
    Observer,
    Run,
    Trainer,
    follow,
    load_checkpoint,
    load_recipe,
)

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


def followed(folder, observer=None):
    return follow(Run(folder), open_source, CPU, 1, observer or FollowObserver(), 0.02)


class Until(Observer):
    """Waits at the end of an epoch until boxes of an epoch are complete."""

    def __init__(self, folder, boxes_at):
        self.folder, self.boxes_at = folder, boxes_at

    def epoch_done(self, record):
        wanted = self.boxes_at.get(record["epoch"])
        done = threading.Event()
        while wanted and not (self.folder / f"boxes/epoch-{wanted:04d}/manifest.json").exists():
            assert not done.wait(0.02)


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


def test_without_a_follower_training_goes_on_with_what_it_has(source, tmp_path):
    train(source, tmp_path / "run", *OVERLAPPED)
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
