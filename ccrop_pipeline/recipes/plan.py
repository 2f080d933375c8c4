"""The plan of a run: which epochs train on which boxes, and when boxes are computed.

Made from the recipe alone, before anything starts, so that it can be shown, checked and resumed in
the middle.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ccrop_pipeline.base import Location, absolute
from ccrop_pipeline.errors import SettingError, shown
from ccrop_pipeline.recipes.recipe import Recipe
from ccrop_pipeline.recipes.settings import PAPER_REFRESHES, BoxSettings, OptimizerSettings


@dataclass(frozen=True)
class TrainStage:
    """Training over epochs `first <= epoch < stop`.

    Attributes:
        first: First epoch, counted from 0.
        stop: One past the last epoch.
        boxes: Box set that windows are drawn from: a path relative to the run, or an absolute
            one or an address that was given; None for random crops.
        newest: Whether each epoch takes the newest complete box set of the run instead, if there
            is one: those of a refresh that goes on beside training.
    """

    first: int
    stop: int
    boxes: str | None
    newest: bool = False


@dataclass(frozen=True)
class RefreshStage:
    """Computing a box set from the encoder after `epoch` epochs.

    Attributes:
        epoch: Epochs trained so far.
        boxes: Path of the new box set, relative to the run.
        overlapped: Whether another process computes it, from the checkpoint that is left for it.
    """

    epoch: int
    boxes: str
    overlapped: bool = False


@dataclass(frozen=True)
class FixedStage:
    """Writing a box set with the same box for every image.

    Attributes:
        kind: Which box.
        boxes: Path of the box set, relative to the run.
    """

    kind: Literal["centre", "full"]
    boxes: str


Stage = TrainStage | RefreshStage | FixedStage


def make_plan(recipe: Recipe, boxes: Location | None = None) -> list[Stage]:
    """Lay out a run.

    Args:
        recipe: Epochs and refreshes.
        boxes: A box set to use from the first epoch on, a path or an address. There is no warm-up
            then, and boxes are computed again only when the recipe says `boxes.refresh_every`.

    Returns:
        Stages in order; the training stages cover every epoch once.

    Raises:
        SettingError: If refreshes fall outside of training or together, no refresh ends the
            warm-up, boxes are given to a recipe that has its own, or training ends before the
            learning rate has finished its warm-up or taken all its steps.
    """
    _expect_a_rate_that_falls(recipe.optimizer, recipe.epochs)
    settings = recipe.boxes
    if settings.kind != "encoder":
        return _without_refreshes(recipe, boxes)
    current = absolute(boxes) if boxes else None
    stages: list[Stage] = []
    first = 0
    for epoch in _refresh_epochs(settings, recipe.epochs, given=boxes is not None):
        stages.append(TrainStage(first, epoch, current, settings.overlapped and first > 0))
        made = box_folder(epoch)
        stages.append(RefreshStage(epoch, made, settings.overlapped))
        current = current if settings.overlapped else made
        first = epoch
    stages.append(TrainStage(first, recipe.epochs, current, settings.overlapped and first > 0))
    return stages


def box_folder(epoch: int) -> str:
    """Return the path, relative to the run, of the box set computed after `epoch` epochs."""
    return f"boxes/epoch-{epoch:04d}"


def checkpoint_file(epoch: int) -> str:
    """Return the path, relative to the run, of the checkpoint that this box set comes from."""
    return f"checkpoints/epoch-{epoch:04d}.pt"


def _without_refreshes(recipe: Recipe, boxes: Location | None) -> list[Stage]:
    kind = recipe.boxes.kind
    if boxes:
        raise SettingError(
            f"`boxes` is {boxes}, but boxes.kind is {kind!r}. Leave out the box set, or set "
            "boxes.kind to 'encoder'."
        )
    if kind not in ("centre", "full"):
        return [TrainStage(0, recipe.epochs, None)]
    folder = f"boxes/{kind}"
    return [FixedStage(kind, folder), TrainStage(0, recipe.epochs, folder)]


def _refresh_epochs(settings: BoxSettings, epochs: int, *, given: bool) -> list[int]:
    if settings.refresh_every:
        warmup = 0 if given else settings.warmup_epochs
        first = warmup or settings.refresh_every
        _expect_an_end_of_warmup(first, epochs, given=given)
        return list(range(first, epochs, settings.refresh_every))
    if given:
        return []
    shares = settings.refresh_at or PAPER_REFRESHES
    chosen = list(settings.refresh_epochs) or [round(share * epochs) for share in shares]
    if len({0, epochs, *chosen}) < len(chosen) + 2 or chosen[-1] > epochs:
        name = "refresh_epochs" if settings.refresh_epochs else f"refresh_at {shown(list(shares))}"
        raise SettingError(
            f"boxes.{name} of {epochs} epochs gives refreshes after epochs {shown(chosen)}: they "
            f"must differ and be between 0 and {epochs}. Train for more epochs, refresh less "
            "often, or set boxes.kind to 'none' for random crops throughout."
        )
    return chosen


def _expect_an_end_of_warmup(first: int, epochs: int, *, given: bool) -> None:
    if first >= epochs and not given:
        raise SettingError(
            f"the first refresh would come after epoch {first} of {epochs}, so that the warm-up "
            "would never end and no box would ever be used. Lower boxes.warmup_epochs or "
            "boxes.refresh_every, or set boxes.kind to 'none' for random crops throughout."
        )


def _expect_a_rate_that_falls(optimizer: OptimizerSettings, epochs: int) -> None:
    # Not a check of the recipe itself: runs that have trained by it can still be probed.
    warmup, milestones = optimizer.lr_warmup_epochs, list(optimizer.milestones)
    if warmup >= epochs:
        raise SettingError(
            f"optimizer.lr_warmup_epochs is {warmup} and epochs {epochs}: the learning rate would "
            "grow until the end. Train for more epochs, or shorten its warm-up as well: "
            f"optimizer.lr_warmup_epochs={epochs // 10}."
        )
    if milestones and milestones[-1] >= epochs:
        raise SettingError(
            f"optimizer.milestones is {shown(milestones)} and epochs {epochs}: the learning rate "
            f"would not take all of these steps. Train for more epochs, give milestones below "
            f"{epochs}, or do without: optimizer.schedule=cosine and optimizer.milestones=[]."
        )


def describe(stage: Stage) -> str:
    """Return a line about a stage, for people; epochs are counted from 1 as in displays."""
    if isinstance(stage, FixedStage):
        return f"write {stage.boxes}: the same box for every image"
    if isinstance(stage, RefreshStage):
        if stage.overlapped:
            return f"after epoch {stage.epoch}: leave {stage.boxes} to `ccrop boxes follow`"
        return f"refresh after epoch {stage.epoch}: compute {stage.boxes}"
    crops = f"boxes from {stage.boxes}" if stage.boxes else "random crops"
    if stage.newest:
        crops = f"the newest boxes; until there are any, {crops}"
    first, last = stage.first + 1, stage.stop
    epochs = f"epoch {first}" if first == last else f"epochs {first}-{last}"
    return f"train {epochs}: {crops}"


def as_record(stage: Stage) -> dict[str, Any]:
    """Return a stage as plain values: its kind as `stage`, its fields, and `text` for people."""
    kind = type(stage).__name__.removesuffix("Stage").lower()
    return {"stage": kind, **asdict(stage), "text": describe(stage)}
