"""Trains the arms of a study, one after the other, and writes what came out of each."""

import json
import math
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence import boxes as made
from benchmarks.evidence.arms import OTHER_SEED, Arm, Study
from benchmarks.evidence.measure import decoders, features, knn
from benchmarks.evidence.outcome import CURVE_BANK, CURVE_QUERIES, PROBES, Trained, outcome
from benchmarks.evidence.results import add_results, alone_in, identity, read_results
from ccrop_pipeline.base import Observer
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.compute.rethreshold import rethreshold
from ccrop_pipeline.images import Source
from ccrop_pipeline.localize import BoxRule
from ccrop_pipeline.recipes import Recipe, load_recipe
from ccrop_pipeline.training import Inputs, Machine, Trainer, load_checkpoint


@dataclass
class Watch(Observer):
    """Probes a little now and then; the last epoch is measured in full afterwards.

    Attributes:
        train: Images of which the first are the bank.
        test: Images of which the first are the queries.
        folder: Of the run.
        recipe: Of the run.
        every: Epochs between probes.
        device: Where features are computed.
    """

    train: Source
    test: Source
    folder: Path
    recipe: Recipe
    every: int
    device: torch.device

    def epoch_done(self, record: Mapping[str, Any]) -> None:
        """Probes, if it is time."""
        print(self.folder.name, json.dumps(dict(record)), flush=True)
        epoch = record["epoch"]
        if epoch % self.every == 0 and epoch < self.recipe.epochs:
            encoder = load_checkpoint(self.folder).encoder(self.device)
            bank = features(self.train, encoder, CURVE_BANK)
            queries = features(self.test, encoder, CURVE_QUERIES)
            line = {"epoch": epoch, "knn": knn(bank, queries, self.recipe.probe)}
            with (self.folder / PROBES).open("a") as file:
                file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Series:
    """All arms of one study and seed.

    Attributes:
        name: Of the study.
        study: What it consists of.
        train: Images trained on; they are the bank of the probes too.
        test: Images that the probes ask about.
        held: Images for the choice among arms, if there is one.
        out: Folder of the results, `evidence.jsonl`; runs lie in `runs` below it.
        seed: Of weights, order, windows and colours.
        device: Where all is computed.
    """

    name: str
    study: Study
    train: Source
    test: Source
    held: Source | None
    out: Path
    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def is_done(self, name: str) -> bool:
        """Tell whether the result of an arm is there."""
        done = map(identity, read_results(self.out / "evidence.jsonl"))
        return (self.name, name, self.seed) in done

    def arm(self, name: str) -> None:
        """Train one arm and write its result, unless that is there.

        A training that was stopped is taken up where its newest checkpoint stands.
        """
        if self.is_done(name):
            return
        arm = self.study.arms[name]
        # Of several processes at different arms one makes what they share, the others wait.
        self._folder("").mkdir(parents=True, exist_ok=True)
        with alone_in(self._folder("")):
            box_set = self._boxes(arm)
            warm = None if arm.boxes.startswith("other") else self._warm(arm)
        self._train(name, self._recipe(*_own_settings(arm)), box_set, warm)
        result = outcome(
            Trained(
                study=self.name,
                arm=name,
                seed=self.seed,
                train=self.train,
                test=self.test,
                held=self.held,
                device=self.device,
                folder=self._folder(name),
                warm=warm,
                boxes=box_set,
                refreshed_once=arm.boxes in ("warm", "shuffled"),
            )
        )
        add_results(self.out / "evidence.jsonl", [result])

    def _recipe(self, *settings: str) -> Recipe:
        shared = (*self.study.settings, f"seed={self.seed}", "probe.every=0")
        return load_recipe(self.study.recipe, [*shared, *settings])

    def _boxes(self, arm: Arm) -> Path | None:
        folder = self._folder(f"boxes-{arm.boxes}")
        if arm.boxes in ("none", "again"):
            return None
        if arm.boxes in ("full", "centre"):
            return made.same_boxes(self.train, folder, arm.boxes)
        if arm.boxes == "true":
            return made.exact_boxes(self.train, folder)
        if arm.boxes.startswith("other"):
            donor = self.study.donor if arm.boxes == "other-method" else ()
            recipe = self._recipe(f"seed={self.seed + OTHER_SEED}", *donor)
            return self._box_set(self._warmed(f"{arm.boxes}-donor", recipe))
        if arm.boxes == "true-shuffled":
            true = made.exact_boxes(self.train, self._folder("boxes-true"))
            return made.shuffled_boxes(self.train, true, folder, self.seed)
        warm = self._box_set(self._warm(arm))
        if arm.boxes == "shuffled":
            return made.shuffled_boxes(self.train, warm, folder, self.seed)
        if arm.threshold is None:
            return warm
        folder = self._folder(f"boxes-threshold-{arm.threshold}")
        rethreshold(BoxSet.open(warm), folder, BoxRule(arm.threshold))
        return folder

    def _warm(self, arm: Arm) -> Path:
        """Train the warm-up that an arm goes on from, unless another arm did."""
        name = "warm-up" if arm.scale is None else f"warm-up-{arm.scale}"
        return self._warmed(name, self._recipe(*_scale(arm)))

    def _warmed(self, name: str, recipe: Recipe) -> Path:
        """Train the warm-up of a run and computes its boxes; the run is then left.

        The schedule is that of the whole run, so what follows from the checkpoint is what the
        run would have done itself.
        """
        folder, settings = self._folder(name), replace(recipe.boxes, refresh_at=())
        settings = replace(settings, refresh_epochs=(self.study.warmup,))
        if not (self._box_set(folder) / "manifest.json").exists():
            trainer = self._trainer(folder, replace(recipe, boxes=settings))
            trainer.plan = trainer.plan[:2]
            trainer.train()
        return folder

    def _box_set(self, folder: Path) -> Path:
        return folder / f"boxes/epoch-{self.study.warmup:04d}"

    def _train(self, name: str, recipe: Recipe, boxes: Path | None, warm: Path | None) -> None:
        trainer = self._trainer(self._folder(name), recipe, boxes)
        newest = self._folder(name) / "checkpoint.pt"
        if warm and not newest.exists():
            trainer.start()
            source = warm / f"checkpoints/epoch-{self.study.warmup:04d}.pt"
            shutil.copy(source, newest.with_suffix(".part"))
            newest.with_suffix(".part").replace(newest)
        trainer.train()

    def _trainer(self, folder: Path, recipe: Recipe, boxes: Path | None = None) -> Trainer:
        watch = Watch(self.train, self.test, folder, recipe, self.study.probe_every, self.device)
        inputs = Inputs(self.train, boxes=boxes)
        machine = Machine(device=self.device, threads=decoders(self.device))
        return Trainer(inputs, folder, recipe, machine, watch)

    def _folder(self, name: str) -> Path:
        return self.out / "runs" / f"{self.name}-seed{self.seed}" / name


def train_missing(
    each: Iterable[Series], arms: Iterable[str], seconds: float = math.inf
) -> list[tuple[int, str]]:
    """Train the arms that have no result, of one series after the other.

    Args:
        each: Series of one study.
        arms: Their names.
        seconds: Once one was trained, no other is begun that would take longer than what is
            left of these, judged by the longest so far.

    Returns:
        Seed and name of what is left.
    """
    begun, longest, left = time.monotonic(), 0.0, []
    for series, arm in product(each, tuple(arms)):
        if series.is_done(arm):
            continue
        started = time.monotonic()
        if longest and started - begun + longest > seconds:
            left.append((series.seed, arm))
            continue
        series.arm(arm)
        longest = max(longest, time.monotonic() - started)
    return left


def _own_settings(arm: Arm) -> tuple[str, ...]:
    """Return the settings of an arm that follow from where its boxes come from."""
    threshold = () if arm.threshold is None else (f"boxes.threshold={arm.threshold}",)
    from_boxes = {
        "none": ('boxes.kind="none"',),
        "again": ("boxes.refresh_at=[0.2, 0.4, 0.6, 0.8]",),
    }
    return (*arm.settings, *_scale(arm), *threshold, *from_boxes.get(arm.boxes, ()))


def _scale(arm: Arm) -> tuple[str, ...]:
    return () if arm.scale is None else (f"crop.scale=[{arm.scale}, 1.0]",)
