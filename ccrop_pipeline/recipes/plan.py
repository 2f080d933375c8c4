"""The plan of a run: which epochs train on which boxes, and when boxes are computed.

Made from the recipe alone, before anything starts, so that it can be shown, checked and resumed in
the middle.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from ccrop_pipeline.base import Location, absolute
from ccrop_pipeline.errors import SettingError, counted, shown
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
        SettingError: If the epochs are too few for the schedule of the learning rate or of the
            refreshes, or boxes are given to a recipe that has its own.
    """
    _expect_enough_epochs(recipe, boxes)
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


_FEW = 2_500  # images of which no encoder that began at random had boxes of worth
_STEPS = 8  # of an epoch; fewer hardly move the weights
_LONG = 100_000  # images in all that are more than a gentle step from weights that are given


def advice(recipe: Recipe, images: int, *, boxes: bool, init: bool) -> str | None:
    """Return what to think of before a run on so many images begins, for people; None: nothing.

    Args:
        recipe: Epochs, batch and boxes.
        images: Images to train on.
        boxes: Whether a box set is given.
        init: Whether weights from elsewhere are.
    """
    found, batch_size = [], recipe.batch_size
    few = too_few(images)
    if few and recipe.boxes.kind == "encoder" and not (boxes or init):
        found.append(
            f"{few} Begin with an encoder that has seen more (`init`), "
            "give boxes of one (`boxes`), or set boxes.kind=none."
        )
    fewer = fitting_batch_size(images, batch_size)
    if fewer < batch_size:
        steps = images // batch_size
        many = f"make {counted(steps, 'step')} an epoch in batches of {batch_size}"
        many = many if steps else f"are less than one batch of {batch_size}, which is refused"
        made = counted(images // fewer, "step")
        found.append(
            f"{counted(images, 'image')} {many}: set batch_size={fewer} for {made} an epoch."
        )
    decay = recipe.optimizer.layer_decay
    if decay < 1 and not init:
        found.append(
            f"optimizer.layer_decay is {decay}, which is for weights that are given, and these "
            "are random: give some (`init`), or set optimizer.layer_decay=1."
        )
    gentle = gentle_epochs(images, recipe.epochs)
    if init and gentle < recipe.epochs:
        found.append(
            f"{counted(recipe.epochs, 'epoch')} of {counted(images, 'image')} are many for weights "
            f"that are given: with epochs={gentle} they keep more of what they know."
        )
    return " ".join(found) or None


def too_few(images: int) -> str | None:
    """Say that no encoder that begins at random learns boxes of worth from so few images."""
    if images >= _FEW:
        return None
    return (
        f"{counted(images, 'image')} {'is' if images == 1 else 'are'} too few to learn boxes from "
        "random weights: in most runs on 300 to 900 photographs they carried little or nothing of "
        "their image (lab/audits.md, lab/backbones.md)."
    )


def fitting_batch_size(images: int, batch_size: int) -> int:
    """Return a batch size that makes enough steps of an epoch: the given one, or a power of two."""
    fewer = max(16, 1 << max(images // _STEPS, 1).bit_length() - 1)
    if images < fewer:
        fewer = 1 << max(images, 2).bit_length() - 1
    return min(fewer, batch_size) if images < _STEPS * batch_size else batch_size


def gentle_epochs(images: int, epochs: int) -> int:
    """Return the epochs after which weights that are given still are much of what they were."""
    return max(5, _LONG // images) if images * epochs > _LONG else epochs


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
        first = (0 if given else settings.warmup_epochs) or settings.refresh_every
        return list(range(first, epochs, settings.refresh_every))
    if given:
        return []
    shares = settings.refresh_at or PAPER_REFRESHES
    return list(settings.refresh_epochs) or [round(share * epochs) for share in shares]


class Misfit(NamedTuple):
    """A schedule that is longer than training.

    Attributes:
        setting: What is too long.
        problem: Its name and what is wrong, for people.
        remedies: Settings that shorten it.
    """

    setting: str
    problem: str
    remedies: tuple[str, ...]


def shorter_schedules(
    recipe: Recipe, overrides: Iterable[str], boxes: Location | None = None
) -> list[str]:
    """Return the settings with which the schedules of a recipe fit into its epochs.

    For short trials: where `epochs` was given on top of a recipe that is made for more.

    Args:
        recipe: Some recipe.
        overrides: What was set on top of it, as `NAME=VALUE`. Schedules among them stay.
        boxes: As `make_plan` has it.
    """
    set_by_hand = {override.partition("=")[0].strip() for override in overrides}
    if "epochs" not in set_by_hand:
        return []
    return [
        setting
        for misfit in _misfits(recipe, boxes)
        if misfit.setting not in set_by_hand
        for setting in misfit.remedies
    ]


def _misfits(recipe: Recipe, boxes: Location | None) -> list[Misfit]:
    found = [*_misfits_of_rate(recipe.optimizer, recipe.epochs)]
    if recipe.boxes.kind == "encoder" and boxes is None:
        found += _misfits_of_refreshes(recipe.boxes, recipe.epochs)
    return found


def _expect_enough_epochs(recipe: Recipe, boxes: Location | None) -> None:
    # Not a check of the recipe itself: runs that have trained by it can still be probed.
    if found := _misfits(recipe, boxes):
        problems = "; ".join(misfit.problem for misfit in found)
        remedies = " ".join(f"`{setting}`" for misfit in found for setting in misfit.remedies)
        raise SettingError(
            f"epochs is {recipe.epochs}, which is too few: {problems}. Give {remedies} as well, or "
            "train for more epochs."
        )


def _misfits_of_rate(optimizer: OptimizerSettings, epochs: int) -> Iterator[Misfit]:
    warmup, milestones = optimizer.lr_warmup_epochs, list(optimizer.milestones)
    if warmup >= epochs:
        problem = f"optimizer.lr_warmup_epochs is {warmup}: the learning rate would never fall"
        yield Misfit(
            "optimizer.lr_warmup_epochs", problem, (f"optimizer.lr_warmup_epochs={epochs // 10}",)
        )
    if milestones and milestones[-1] >= epochs:
        problem = f"optimizer.milestones is {shown(milestones)}: not all of them would be reached"
        yield Misfit(
            "optimizer.milestones",
            problem,
            ("optimizer.schedule=cosine", "optimizer.milestones=[]"),
        )


def _misfits_of_refreshes(settings: BoxSettings, epochs: int) -> Iterator[Misfit]:
    chosen = _refresh_epochs(settings, epochs, given=False)
    if chosen and len({0, epochs, *chosen}) == len(chosen) + 2 and chosen[-1] < epochs:
        return
    if settings.refresh_every:
        first = settings.warmup_epochs or settings.refresh_every
        name = "warmup_epochs" if settings.warmup_epochs else "refresh_every"
        problem = f"boxes.{name} is {first}: the warm-up would never end, and no box be used"
    else:
        name = "refresh_epochs" if settings.refresh_epochs else "refresh_at"
        shares = shown(list(settings.refresh_at or PAPER_REFRESHES))
        problem = (
            f"boxes.{name}{'' if settings.refresh_epochs else f' {shares}'} gives refreshes after "
            f"epochs {shown(chosen)}, which must differ and be between 0 and {epochs}"
        )
    # The paper's four need five epochs, and even one needs two.
    shares = "[0.2,0.4,0.6,0.8]" if epochs > len(PAPER_REFRESHES) else "[0.5]"
    remedy = "boxes.kind=none" if epochs == 1 else f"boxes.refresh_at={shares}"
    yield Misfit(f"boxes.{name}", problem, (remedy,))


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
