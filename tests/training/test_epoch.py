"""What an epoch records and what its steps draw from, against plain loops."""

import copy
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ccrop_pipeline.base import Observer
from ccrop_pipeline.images import Scenes
from ccrop_pipeline.images.scenes import ScenesIndex
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Inputs, Machine, Trainer
from ccrop_pipeline.training.inputs import open_loader
from ccrop_pipeline.training.learner import Learner
from ccrop_pipeline.training.processes import Processes
from tests.training.test_collapse import effective_rank

COMMON = [
    "image_size=32",
    "eval_size=0",
    "epochs=2",
    "batch_size=8",
    "boxes.kind=none",
    "optimizer.lr_warmup_epochs=0",
    "probe.every=0",
]
CPU = torch.device("cpu")


def recipe(*settings, base="demo"):
    return load_recipe(base, [*COMMON, *settings])


class Parts:
    """A learner and its loader, made anew: the same for the same recipe."""

    def __init__(self, settings, accumulate=1):
        processes = Processes(CPU, settings.precision)
        self.loader = open_loader(Inputs(Scenes(24, size=32)), settings, Machine())
        self.learner = Learner(settings, processes, len(self.loader) // accumulate)


def test_an_epoch_records_the_means_over_its_steps():
    settings = recipe("accumulate=2")
    epoch, steps = Parts(settings, accumulate=2), Parts(settings, accumulate=2)
    record = epoch.learner.train_epoch(0, epoch.loader, Observer())
    spied = []
    steps.learner.method.register_forward_hook(
        lambda _method, _views, output: spied.append(output.embeddings.numpy())
    )
    batches = [[view for group in batch.views for view in group] for batch in steps.loader]
    results = [steps.learner.step(batches[2 * n : 2 * n + 2], 0, n) for n in range(3)]
    losses, spreads = ([float(result[at]) for result in results] for at in (0, 1))
    assert record["loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert record["embedding_std"] == pytest.approx(sum(spreads) / 3, abs=1e-5)
    assert record["lr"] == results[-1].lr
    rows = np.concatenate(spied)
    assert (record["rankme"], record["rankme_limit"]) == (
        pytest.approx(effective_rank(rows), abs=0.01),
        24,
    )
    # Steps are far enough apart that neither one of them nor their sum passes for their mean.
    assert all(abs(spread - record["embedding_std"]) > 1e-3 for spread in spreads)


@dataclass(frozen=True)
class Slow(Scenes):
    """A source that gives an image after `SECONDS` and no sooner."""

    def index(self):
        return SlowIndex(self)


SECONDS = 0.01


class SlowIndex(ScenesIndex):
    def read(self, i):
        time.sleep(SECONDS)
        return super().read(i)


@pytest.mark.slow
def test_the_time_that_data_is_waited_for_is_recorded(tmp_path):
    class Watch(Observer):
        reports = ()

        def step(self, report):
            self.reports = (*self.reports, report)

    watch = Watch()
    machine = Machine(resident_gb=0)  # each image is read when a step asks for it
    trainer = Trainer(Inputs(Slow(24, size=32)), tmp_path / "run", recipe(), machine, watch)
    trainer.train()
    for record in trainer.run.metrics():
        waited = record["data_wait"] * record["seconds"]
        assert 24 * SECONDS <= waited * 1.01 < record["seconds"]  # both are rounded
    for report in watch.reports:
        assert 8 * report.step * SECONDS <= report.waited < report.seconds


def test_what_a_step_draws_depends_on_the_seed_of_the_recipe():
    """From the same weights with the same views, MoCo's shuffle alone can part two losses."""
    small = ("method.queue_size=8", "method.bn_groups=4", "method.projection_dim=8")
    first, again, other = (
        Parts(recipe("backbone=small", *small, f"seed={seed}", base="mocov2")) for seed in (0, 0, 1)
    )
    views = [view for group in next(iter(first.loader)).views for view in group]
    state = copy.deepcopy(first.learner.state())
    losses = []
    for parts in (first, again, other):
        parts.learner.load(*state)
        losses.append(parts.learner.step([views], 0, 0).loss.item())
    assert losses[0] == losses[1] != losses[2]
