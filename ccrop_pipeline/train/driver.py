"""One driver for all methods: executes a plan, stage by stage, and resumes it anywhere."""

import math
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.compute import ComputeSettings, compute_boxes
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import BoxRule, Localizer
from ccrop_pipeline.methods import build_method
from ccrop_pipeline.train.checkpoint import (
    NEWEST,
    Checkpoint,
    encoder_of,
    load_checkpoint,
    save_checkpoint,
)
from ccrop_pipeline.train.inputs import Inputs, Machine
from ccrop_pipeline.train.loading import open_loader, view_groups
from ccrop_pipeline.train.observer import Observer, StepReport
from ccrop_pipeline.train.plan import RefreshStage, TrainStage, make_plan
from ccrop_pipeline.train.probe import LabelledImages, embed, held_out, knn_accuracy, labelled
from ccrop_pipeline.train.recipe import Recipe
from ccrop_pipeline.train.run import Run
from ccrop_pipeline.train.schedule import learning_rate
from ccrop_pipeline.views import Augment, Batch


class Trainer:
    """A run in progress.

    Args:
        inputs: Images and boxes.
        folder: Folder of the run. A run that lies there and was started in the same way is
            taken up where its newest checkpoint stands.
        recipe: All settings.
        machine: Device and processes.
        observer: Told of every stage, step and epoch.
        overwrite: Whether to delete a run that lies in `folder`.

    Raises:
        CcropError: When the folder holds another run, the box set or the source cannot be used
            or a setting makes no sense for them.
    """

    def __init__(
        self,
        inputs: Inputs,
        folder: Path,
        recipe: Recipe,
        machine: Machine,
        observer: Observer,
        overwrite: bool = False,
    ) -> None:
        self.inputs, self.recipe, self.machine, self.observer = inputs, recipe, machine, observer
        self.plan = make_plan(recipe, inputs.boxes)
        self.run = Run(folder)
        loading = open_loader(inputs, recipe, machine)
        self.run.start(_identity(inputs, recipe), overwrite)
        observer.loading(loading.images, loading.note)
        self.index, self.loader = loading.index, loading.loader
        self.augment = Augment(view_groups(recipe), recipe.seed, machine.device)
        torch.manual_seed(recipe.seed)
        method = build_method(recipe.method, recipe.backbone)
        self.method = method.to(machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            [weight for weight in self.method.parameters() if weight.requires_grad],
            lr=recipe.optimizer.lr,
            momentum=recipe.optimizer.momentum,
            weight_decay=recipe.optimizer.weight_decay,
        )
        self.epoch = 0

    def train(self) -> None:
        """Executes what is left of the plan."""
        self._resume()
        for stage in self.plan:
            if isinstance(stage, RefreshStage):
                if stage.epoch >= self.epoch:
                    self._refresh(stage)
            elif stage.stop > self.epoch:
                self.observer.stage(stage)
                self._train_stage(stage)

    def _resume(self) -> None:
        if (self.run.folder / NEWEST).is_file():
            checkpoint = load_checkpoint(self.run.folder)
            self.epoch = checkpoint.epoch
            self.method.load_state_dict(checkpoint.method)
            self.optimizer.load_state_dict(checkpoint.optimizer)
        self.run.keep_metrics_until(self.epoch)

    def _refresh(self, stage: RefreshStage) -> None:
        # Before anything can go wrong in the refresh: the epochs so far must not be lost.
        save_checkpoint(
            self.run.folder / f"checkpoints/epoch-{stage.epoch:04d}.pt", self._checkpoint()
        )
        self.observer.stage(stage)
        started = time.perf_counter()
        encoder = encoder_of(self.method.backbone, self.recipe, stage.epoch, self.machine.device)
        box_set = compute_boxes(
            self.inputs.source,
            Localizer(encoder, "sum", BoxRule(self.recipe.boxes.threshold)),
            self.run.folder / stage.boxes,
            ComputeSettings(threads=self.machine.threads),
            self.observer,
        )
        assert box_set is not None  # one process computes all of it
        self.observer.refreshed(box_set, time.perf_counter() - started)

    def _train_stage(self, stage: TrainStage) -> None:
        self.loader.use_boxes(self.run.folder / stage.boxes if stage.boxes else None)
        for epoch in range(max(stage.first, self.epoch), stage.stop):
            record = self._train_epoch(epoch)
            self.epoch = epoch + 1
            record = {"epoch": self.epoch, "boxes": stage.boxes, **record, **self._probe()}
            self.run.add_metrics(record)
            save_checkpoint(self.run.folder / NEWEST, self._checkpoint())
            self.observer.epoch_done(record)

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        self.method.train()
        total, waited, unreadable = torch.zeros((), device=self.machine.device), 0.0, 0
        started = time.perf_counter()
        for step, (batch, wait) in enumerate(_timed(self.loader.epoch(epoch))):
            loss, lr = self._step(batch, epoch, step)
            total += loss
            waited += wait
            unreadable += batch.unreadable
            seconds = time.perf_counter() - started
            images = (step + 1) * self.recipe.batch_size
            self.observer.step(
                StepReport(epoch, step + 1, len(self.loader), images, seconds, waited)
            )
        mean_loss = total.item() / len(self.loader)
        seconds = time.perf_counter() - started
        if not math.isfinite(mean_loss):
            raise CcropError(
                f"the loss of epoch {epoch + 1} is {mean_loss}. The newest checkpoint is of epoch "
                f"{self.epoch}; start another run with a lower learning rate (optimizer.lr)"
            )
        return {
            "loss": mean_loss,
            "lr": lr,
            "seconds": round(seconds, 3),
            "images_per_s": round(images / seconds, 1),
            "data_wait": round(waited / seconds, 4),
            "unreadable": unreadable,
        }

    def _step(self, batch: Batch, epoch: int, step: int) -> tuple[torch.Tensor, float]:
        settings, steps = self.recipe.optimizer, len(self.loader)
        lr = learning_rate(
            epoch * steps + step,
            self.recipe.epochs * steps,
            settings.lr_warmup_epochs * steps,
            settings.lr,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        (views,) = self.augment(batch, epoch)
        self.method.before_step()
        with torch.autocast(
            self.machine.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"
        ):
            loss = self.method.loss(views)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach(), lr

    def _probe(self) -> dict[str, Any]:
        settings, last = self.recipe.probe, self.epoch == self.recipe.epochs
        if not settings.every or not (last or self.epoch % settings.every == 0):
            return {}
        if self.index is None or not (self.index.labels >= 0).any():
            return {}
        bank = labelled(self.index, self.inputs.source.location)
        bank, queries = (bank, self._test) if self._test else held_out(bank)
        encoder = encoder_of(self.method.backbone, self.recipe, self.epoch, self.machine.device)
        accuracy = knn_accuracy(
            embed(bank, encoder, self.machine.threads),
            embed(queries, encoder, self.machine.threads),
            settings,
        )
        return {"knn": round(accuracy, 5)}

    @cached_property
    def _test(self) -> LabelledImages | None:
        test = self.inputs.test_source
        return labelled(test.index(), test.location) if test else None

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            self.epoch, self.recipe, self.method.state_dict(), self.optimizer.state_dict()
        )


def _identity(inputs: Inputs, recipe: Recipe) -> dict[str, Any]:
    source, boxes = inputs.source, inputs.boxes
    return {
        "recipe": recipe.to_dict(),
        "source": {"kind": source.kind, "fingerprint": source.fingerprint()},
        "boxes": BoxSet.open(boxes).manifest.provenance.fingerprint if boxes else None,
        "missing_boxes": inputs.missing_boxes,
    }


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Batches, each with the seconds that it was waited for."""
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - asked
