"""The plan of a run: which epochs train on which boxes, and when boxes are computed.

Computed from the recipe alone, before anything starts, so that it can be shown, checked and
taken up again in the middle.
"""

from dataclasses import dataclass
from pathlib import Path

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.train.recipe import Recipe


@dataclass(frozen=True)
class TrainStage:
    """Training over epochs ``first <= epoch < stop``.

    Attributes:
        first: First epoch, counted from 0.
        stop: One past the last epoch.
        boxes: Box set that windows are drawn from: a path relative to the run, or an absolute
            one that was given; None for random crops.
    """

    first: int
    stop: int
    boxes: str | None


@dataclass(frozen=True)
class RefreshStage:
    """Computing a box set from the encoder after `epoch` epochs.

    Attributes:
        epoch: Epochs trained so far.
        boxes: Path of the new box set, relative to the run.
    """

    epoch: int
    boxes: str


Stage = TrainStage | RefreshStage


def make_plan(recipe: Recipe, boxes: Path | None = None) -> list[Stage]:
    """Lays out a run.

    Args:
        recipe: Epochs and refreshes.
        boxes: A box set to use from the first epoch on. There is no warm-up then, and boxes are
            computed again only when the recipe says `boxes.refresh_every`.

    Returns:
        Stages in order; the training stages cover every epoch once.

    Raises:
        CcropError: When a share of training is less than an epoch, so that a refresh would come
            before the first epoch or two would fall together.
    """
    current = str(boxes.resolve()) if boxes else None
    stages: list[Stage] = []
    first = 0
    for epoch in _refresh_epochs(recipe, given=boxes is not None):
        stages.append(TrainStage(first, epoch, current))
        current = f"boxes/epoch-{epoch:04d}"
        stages.append(RefreshStage(epoch, current))
        first = epoch
    stages.append(TrainStage(first, recipe.epochs, current))
    return stages


def _refresh_epochs(recipe: Recipe, given: bool) -> list[int]:
    settings = recipe.boxes
    if settings.refresh_every:
        return list(range(settings.refresh_every, recipe.epochs, settings.refresh_every))
    if given:
        return []
    epochs = [round(share * recipe.epochs) for share in settings.refresh_at]
    if len({0, recipe.epochs, *epochs}) < len(epochs) + 2:
        raise CcropError(
            f"boxes.refresh_at {list(settings.refresh_at)} of {recipe.epochs} epochs gives "
            f"refreshes after epochs {epochs}: they must differ and lie between 0 and "
            f"{recipe.epochs}. Train for more epochs or refresh less often"
        )
    return epochs


def describe(stage: Stage) -> str:
    """One line about a stage, for people; epochs are counted from 1 as in progress displays."""
    if isinstance(stage, RefreshStage):
        return f"refresh after epoch {stage.epoch}: compute {stage.boxes}"
    crops = f"boxes from {stage.boxes}" if stage.boxes else "random crops"
    return f"train epochs {stage.first + 1}-{stage.stop}: {crops}"
