"""One driver for all methods: executes a plan, stage by stage, and resumes it anywhere."""

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ccrop_pipeline.base import ALONE, SILENT, Observer, Ranks, is_address
from ccrop_pipeline.base.lock import only_writer
from ccrop_pipeline.base.workers import deaths_explained
from ccrop_pipeline.boxset import BoxSet, library_versions
from ccrop_pipeline.compute.choice import LIBRARIES
from ccrop_pipeline.errors import CcropError, counted
from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.images import ImageIndex
from ccrop_pipeline.models.own_checkpoints import within
from ccrop_pipeline.models.sealed_files import NEWEST
from ccrop_pipeline.recipes import (
    FixedStage,
    Recipe,
    RefreshStage,
    TrainStage,
    make_plan,
)
from ccrop_pipeline.recipes.plan import as_record, box_folder, checkpoint_file
from ccrop_pipeline.training.checkpoint import (
    Checkpoint,
    load_newest,
    save_checkpoint,
)
from ccrop_pipeline.training.collapse import given_up, judge
from ccrop_pipeline.training.inputs import Inputs, Machine, Probe, open_loader, open_probe
from ccrop_pipeline.training.learner import Learner
from ccrop_pipeline.training.loggers import Loggers
from ccrop_pipeline.training.metrics import Metrics, box_metrics
from ccrop_pipeline.training.optimizers import optimizer_note
from ccrop_pipeline.training.processes import Processes, device_name, slow_precision
from ccrop_pipeline.training.refresh import forget_after, newest_boxes, refresh_boxes
from ccrop_pipeline.training.run import UNREADABLE, Run, expect_outside, identity_of
from ccrop_pipeline.views.batch import unreadable_note


class Trainer:
    """A run in progress, in one process or in one of several.

    Args:
        inputs: Images, boxes and weights to start from.
        folder: Folder of the run. A run that is there and was started in the same way is
            resumed from its newest checkpoint.
        recipe: All settings.
        machine: Device and loader processes.
        observer: Told of every stage, step and epoch; of several processes only in the first.
        overwrite: Whether to delete a run that is in `folder`.
        stop_on_collapse: Whether `train` ends with an error after an epoch that collapses, or the
            third in a row that does not learn.

    Raises:
        CcropError: If the box set or the source cannot be used, or a setting makes no sense for
            them.
    """

    def __init__(
        self,
        inputs: Inputs,
        folder: Path,
        recipe: Recipe,
        machine: Machine,
        observer: Observer = SILENT,
        *,
        overwrite: bool = False,
        stop_on_collapse: bool = False,
    ) -> None:
        self.plan = make_plan(recipe, inputs.boxes)
        self.inputs, self.recipe = inputs, recipe
        self.processes = Processes(machine.device, recipe.precision)
        self.machine = machine = replace(machine, device=self.processes.fabric.device)
        self.observer = observer if self.processes.first else SILENT
        self.run, self.metrics = Run(folder), Metrics(folder)
        self.loggers = Loggers(machine.log, self.observer)
        if overwrite or (self.run.exists and not self.run.trained):
            expect_outside(folder, inputs)
        self.loader = open_loader(inputs, recipe, machine, self.processes.ranks)
        self._probe: Probe | None = None
        self.processes.once(lambda: self._open_probe(self.loader.index))
        self.learner = Learner(
            recipe,
            self.processes,
            len(self.loader) // recipe.accumulate,
            weights=inputs.weights,
            compiled=machine.compile,
            checkpointing=machine.grad_checkpointing,
        )
        self._overwrite, self._stop_on_collapse = overwrite, stop_on_collapse
        self.epoch = 0
        self._boxes: str | None = None  # in use, or last used before the run was stopped
        self._loaded = self.plan[0].boxes if inputs.boxes else None  # those that the loader has
        self.observer.loading(self.loader.images, self.loader.note)
        if slow := slow_precision(recipe.precision, machine.device):
            self.observer.warning(slow)
        if note := optimizer_note(self.learner.method.backbone, recipe):
            self.observer.warning(note)
        if self._probe and (note := self._probe.note()):
            self.observer.warning(note)

    def train(self) -> None:
        """Execute what is left of the plan.

        Raises:
            CcropError: If the folder holds another run, another process trains in it, or the run
                is to end because it collapses.
        """
        with ExitStack() as held, deaths_explained("`workers` to 0"):
            self.processes.once(lambda: held.enter_context(only_writer(self.run.folder)))
            self.start()
            held.push(lambda _kind, error, _where: self.loggers.close(error))
            self._resume()
            self._execute()

    def start(self) -> None:
        """Make the folder of the run, or check what is there, as `train` does at first.

        Raises:
            CcropError: If the folder holds another run.
        """
        # When nothing more can refuse it: `overwrite` deletes what is there.
        identity = identity_of(self.inputs, self.recipe)
        spec, overwrite = self.inputs.spec or self.inputs.source.location, self._overwrite
        self.processes.once(lambda: self.run.start(identity, spec, overwrite=overwrite))
        self._overwrite = False

    def _execute(self) -> None:
        for stage in self.plan:
            if isinstance(stage, TrainStage):
                if stage.stop > self.epoch:
                    self._train(stage)
            elif isinstance(stage, FixedStage):
                self._write_fixed(stage)
            elif stage.epoch >= self.epoch:
                self._refresh(stage)

    def _resume(self) -> None:
        if found := load_newest(self.run.folder):
            checkpoint, damage = found
            self.epoch = checkpoint.epoch
            with within(self.run.folder):
                self.learner.load(checkpoint.method, checkpoint.optimizer)
            if damage:
                self.observer.warning(f"{damage} Training goes on after epoch {self.epoch}.")
                self.processes.once(lambda: forget_after(self.run.folder, self.epoch))
        elif self.learner.started_from:
            self.observer.loaded(self.learner.started_from)
        self.processes.once(self._open_records)
        self._boxes = self.processes.once(self._last_boxes)

    def _open_records(self) -> None:
        self.metrics.truncate_after(self.epoch)
        if self.epoch < self.recipe.epochs:
            self.loggers.open(self.run, self.recipe.to_dict(), self.epoch)
            self.metrics.add(self._start_record())

    def _start_record(self) -> dict[str, Any]:
        record = {
            "stage": "start",
            "epoch": self.epoch,
            "boxes": None,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "images": self.loader.images,
            "device": device_name(self.machine.device),
            "processes": self.processes.count,
            "libraries": library_versions(*LIBRARIES),
        }
        given = self.epoch == 0 and self.learner.started_from
        return record | self._probed() if given else record

    def _add(self, record: Mapping[str, Any]) -> None:
        self.metrics.add(record)
        self.loggers.add(record)

    def _last_boxes(self) -> str | None:
        records = self.metrics.records("train")
        boxes: str | None = records[-1].get("boxes") if records else None
        # Boxes that were given may be elsewhere by now.
        given = boxes and (is_address(boxes) or Path(boxes).is_absolute())
        return self.plan[0].boxes if given else boxes

    def _place(self, boxes: str) -> str:
        """Return where a box set is that the plan names: in the run unless it was given."""
        return boxes if is_address(boxes) else str(self.run.folder / boxes)

    def _write_fixed(self, stage: FixedStage) -> None:
        self.observer.stage(as_record(stage))
        source, folder = self.inputs.source, self.run.folder / stage.boxes
        self.processes.once(lambda: fixed_boxes(source, folder, stage.kind))

    def _refresh(self, stage: RefreshStage) -> None:
        # Before anything can go wrong in the refresh: the epochs so far must not be lost.
        file = self.run.folder / checkpoint_file(stage.epoch)
        self.processes.once(lambda: self._save(file))
        self.observer.stage(as_record(stage))
        if stage.overlapped:
            return
        started = time.perf_counter()
        self._compute(stage.epoch, self.processes.ranks)
        if self.processes.count > 1:
            self.processes.wait()
            # Complete already, unless a file of another machine was not yet to be seen from any.
            self.processes.once(lambda: self._compute(stage.epoch, ALONE))
        seconds = time.perf_counter() - started
        self.processes.once(lambda: self._note_boxes(stage.boxes, stage.epoch, seconds))

    def _compute(self, epoch: int, ranks: Ranks) -> None:
        refresh_boxes(
            self.run.folder,
            epoch,
            self.inputs.source,
            device=self.machine.device,
            threads=self.machine.threads,
            observer=self.observer,
            ranks=ranks,
        )

    def _note_boxes(self, boxes: str, epoch: int, seconds: float | None) -> None:
        box_set = BoxSet.open(self.run.folder / boxes)
        if not any(record.get("boxes") == boxes for record in self.metrics.records("refresh")):
            previous = BoxSet.open(self._place(self._boxes)) if self._boxes else None
            record = {"stage": "refresh", "epoch": epoch, "boxes": boxes}
            if seconds is not None:
                record["seconds"] = round(seconds, 3)
            self._add({**record, **box_metrics(box_set, previous)})
        self.observer.refreshed(str(self.run.folder / boxes), seconds)

    def _train(self, stage: TrainStage) -> None:
        self.observer.stage(as_record(stage))
        for epoch in range(max(stage.first, self.epoch), stage.stop):
            self._use(self._newest(stage) if stage.newest else stage.boxes)
            record = self.learner.train_epoch(epoch, self.loader, self.observer)
            self.epoch = epoch + 1
            self.processes.once(lambda of=record: self._end_epoch(of))  # type: ignore[misc]

    def _use(self, boxes: str | None) -> None:
        self._boxes = boxes
        if boxes != self._loaded:
            self.loader.use_boxes(self._place(boxes) if boxes else None)
            self._loaded = boxes

    def _newest(self, stage: TrainStage) -> str | None:
        newest = self.processes.once(lambda: newest_boxes(self.run.folder, self.epoch))
        if newest is None:
            self._miss_a_follower(stage)
            return self._boxes or stage.boxes
        boxes = box_folder(newest)
        if boxes != self._boxes:
            self.processes.once(lambda: self._note_boxes(boxes, self.epoch, None))
        return boxes

    def _miss_a_follower(self, stage: TrainStage) -> None:
        before = [s for s in self.plan if isinstance(s, RefreshStage) and s.epoch < stage.first]
        if len(before) == 1 and self.epoch == stage.first:  # once: the first that are late
            self.observer.warning(
                f"after {counted(self.epoch, 'epoch')} no boxes of a refresh are there yet. Is "
                f"`ccrop boxes follow {self.run.folder}` running?"
            )

    def _end_epoch(self, record: dict[str, Any]) -> None:
        self._name_unreadable(self.learner.unreadable)
        _expect_finite(record["loss"], self.epoch)
        record = {"stage": "train", "epoch": self.epoch, "boxes": self._boxes, **record}
        record |= self._probed()
        records = [*self.metrics.records("train"), record]
        record |= judge(records, self.recipe)._asdict()
        self._add(record)
        self._save(self.run.folder / NEWEST)
        self.observer.epoch_done(record)
        if self._stop_on_collapse and (wrong := given_up(records)):
            raise CcropError(
                f"{self.run.folder} {wrong} after epoch {self.epoch}: {record['why']}. Its newest "
                "checkpoint is kept; without `stop_on_collapse` the same call goes on from it."
            )

    def _probed(self) -> dict[str, Any]:
        if not self._probe or not self._probe.due(self.epoch, self.recipe.epochs):
            return {}
        started = time.perf_counter()
        encoder = self._checkpoint().encoder(self.machine.device)
        try:
            record, unreadable = self._probe.record(encoder, self.machine.threads)
        except (CcropError, OSError, torch.OutOfMemoryError) as error:
            # Must not cost the epoch, which is not saved yet.
            self.observer.warning(f"epoch {self.epoch} has no kNN accuracy: {error}")
            return {}
        self._name_unreadable(unreadable)
        given = [start["knn"] for start in self.metrics.records("start") if "knn" in start]
        before = {"knn_start": given[-1]} if given else {}
        return {**record, **before, "knn_seconds": round(time.perf_counter() - started, 3)}

    def _name_unreadable(self, problems: Iterable[str]) -> None:
        if new := self.run.list_unreadable(problems):
            self.observer.warning(unreadable_note(new, self.run.folder / UNREADABLE))

    def _open_probe(self, index: ImageIndex | None) -> None:
        self._probe = open_probe(self.inputs, index, self.recipe.probe)

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.epoch, self.recipe, *self.learner.state())

    def _save(self, file: Path) -> None:
        save_checkpoint(file, self._checkpoint())


def _expect_finite(loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise CcropError(
            f"the loss of epoch {epoch} is {loss}. The newest checkpoint is of epoch {epoch - 1}; "
            "start another run with a lower learning rate (optimizer.lr)."
        )
