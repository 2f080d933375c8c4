"""The verdict of an audit in words: whether boxes carry anything of their images, what to do."""

from dataclasses import dataclass
from typing import Literal, get_args

from ccrop_pipeline.boxset import NEARLY_FULL, BoxStatistics, LocalizerInfo
from ccrop_pipeline.errors import counted
from ccrop_pipeline.report.crop_effect import CropEffect
from ccrop_pipeline.report.remedy import Remedy
from ccrop_pipeline.report.spread import Spread

Word = Literal[
    "follow the image", "carry little of the image", "carry nothing of the image", "cannot tell"
]
WORTH, LITTLE, NOTHING, UNKNOWN = get_args(Word)
# Of `own`; lab/audits.md has the sets on which they were chosen.
_NOTHING, _LITTLE = 0.05, 0.15
_CHANCE = 0.1  # kappa of boxes of other images
_FEWEST = 32  # images that say how much boxes differ, and by which a rule sets itself
_LESS = 0.005  # of what windows show, beside plain random crops
_CALLED = {"box": "boxes", "middle": "middle of the image"}


@dataclass(frozen=True)
class Agreement:
    """How well boxes of images agree with those of windows cut from them.

    Attributes:
        kappa: How much nearer the box of an image is to those of its own windows than boxes of
            other images are: 1 is the same, 0 no nearer.
        freedom: Spread of the centres of boxes, beside that of boxes which lie anywhere.
        images: Number of images.
        worthless: Whether no threshold that was tried gave boxes worth anything.
        model: Where the windows' boxes are those of a model that did not make the boxes: how much
            of where its own boxes lie is of the image. None where they are of what made them.
        untrained: Whether the weights of the model that was asked are known to be random.
    """

    kappa: float
    freedom: float
    images: int
    worthless: bool = False
    model: float | None = None
    untrained: bool = False


@dataclass(frozen=True)
class Verdict:
    """One line, and why.

    Attributes:
        word: The verdict.
        reason: Why, in one sentence.
        advice: What to do, in one sentence; None where nothing is to be done.
    """

    word: Word
    reason: str
    advice: str | None = None

    @property
    def warning(self) -> str | None:
        """Verdict, reason and advice where boxes carry little or nothing, for people."""
        if self.word not in (LITTLE, NOTHING):
            return None
        return f"these boxes {self.word}: {self.reason} {self.advice}"


def own_share(spread: Spread, agreement: Agreement | None) -> float:
    """Return how much of where a box lies is of its own image, in [0, 1].

    How much boxes differ from one box for all, 1 - IoU, times how surely they come back in
    windows of their image, kappa. Where it is not known, the most that it can be, 1; so too
    where windows were seen by a model that made other boxes.
    """
    known = agreement is not None and agreement.model is None
    kappa = min(1.0, max(0.0, agreement.kappa)) if agreement and known else 1.0
    return kappa * (1 - spread.median_iou)


def shown(own: float) -> str:
    """Return `own` with two digits, or as many as keep it on its side of every limit."""
    for digits in (2, 3, 4):
        text = f"{own:.{digits}f}"
        if all((float(text) >= limit) == (own >= limit) for limit in (_NOTHING, _LITTLE)):
            return text
    return f"just below {text}"


def recorded(localizer: LocalizerInfo | None) -> Agreement | None:
    """Return the agreement that was measured when the box rule set itself; None if none was."""
    choice = None if localizer is None else localizer.choice
    if localizer is None or choice is None or localizer.threshold not in choice.threshold:
        return None
    at = choice.threshold.index(localizer.threshold)
    return Agreement(choice.kappa[at], choice.freedom[at], choice.images, choice.worthless)


def judge(
    statistics: BoxStatistics,
    spread: Spread | None,
    agreement: Agreement | None,
    localizer: LocalizerInfo | None,
    remedy: Remedy | None,
    *,
    untrained: bool,
    different: int,
) -> Verdict:
    """Return the verdict on boxes.

    Args:
        statistics: Of all rows.
        spread: Of a sample of them; None without readable rows.
        agreement: With windows; None where not known.
        localizer: What made the boxes; None where no model did.
        remedy: Another rule that leaves fewer boxes nearly full.
        untrained: Whether the encoder that made them is known to have random weights.
        different: Number of images of the sample of which none is a copy of another.
    """
    counts = statistics.counts
    if statistics.share(counts["ok"]) <= 0.5:
        return _nothing_located(statistics)
    assert spread is not None
    nearly_full = statistics.share(statistics.nearly_full)
    if different < _FEWEST <= spread.images:
        alike = f"the images are alike: the {spread.images:,} looked at are copies of {different}."
        return Verdict(UNKNOWN, alike, "Compute boxes of images that differ.")
    if spread.images < _FEWEST and nearly_full <= 0.5:
        few = f"{counted(spread.images, 'image')} are too few to say how much boxes differ."
        return Verdict(UNKNOWN, few, "Compute boxes of more images.")
    own = own_share(spread, agreement)
    if agreement is not None and agreement.model is None:
        untrained |= agreement.untrained
    worthless = agreement is not None and agreement.worthless
    if worthless or untrained or own < _LITTLE:
        word = NOTHING if worthless or own < _NOTHING else LITTLE
        why = "the weights of the encoder are random." if untrained else None
        why = why or _why(spread, agreement, nearly_full)
        return Verdict(word, why, _advice(localizer, remedy))
    if agreement is None:
        return Verdict(
            UNKNOWN,
            f"boxes differ between images (IoU with the median box {spread.median_iou:.2f}), and "
            "nothing in the set says whether it is the images that decide where they lie.",
            "Give `source` and `model` to find out, or look at some (`ccrop boxes show`)."
            if localizer
            else "Compare them with true boxes, or look at some (`ccrop boxes show`).",
        )
    if agreement.model is not None:
        return _beside_a_model(agreement, agreement.model)
    return Verdict(
        WORTH,
        f"boxes differ between images (IoU with the median box {spread.median_iou:.2f}), and "
        f"windows of an image get the same box (kappa {agreement.kappa:.2f}).",
    )


def _beside_a_model(agreement: Agreement, model: float) -> Verdict:
    """Judge boxes by what a model that did not make them finds in windows."""
    kappa = f"kappa {agreement.kappa:.2f}, on {counted(agreement.images, 'image')}"
    # Kappa of boxes of other images has a standard deviation of about .6 over the root of n.
    if agreement.kappa > 2 / agreement.images**0.5:
        return Verdict(
            WORTH,
            "they lie nearer to what the model finds in windows of their image than boxes of "
            f"other images do ({kappa}).",
        )
    if model < _LITTLE or agreement.untrained:
        why = f"its own boxes carry little of the image ({shown(model)})"
        why = "its weights are random" if agreement.untrained else why
        return Verdict(
            UNKNOWN,
            f"boxes differ between images, but this model is no measure: {why}.",
            "Give a model that finds objects, or compare them with true boxes.",
        )
    if agreement.kappa > _CHANCE:
        return Verdict(UNKNOWN, f"there are too few images ({kappa}).", "Audit more of them.")
    return Verdict(
        NOTHING,
        "they lie no nearer to what the model finds in windows of their image than boxes of "
        f"other images do ({kappa}).",
        "Check that each box belongs to its image.",
    )


def _nothing_located(statistics: BoxStatistics) -> Verdict:
    counts = statistics.counts
    if not sum(counts.values()):
        return Verdict(UNKNOWN, "there are no boxes.")
    if counts["unreadable"] > counts["empty"]:
        return Verdict(
            NOTHING,
            f"{statistics.share(counts['unreadable']):.0%} of the images could not be decoded, and "
            "their boxes are the whole image.",
            "Look at the source.",
        )
    return Verdict(
        NOTHING,
        f"{statistics.share(counts['empty']):.0%} of the heatmaps are constant, not finite or "
        "without content, and their boxes are the whole image.",
        "Look at the encoder: its weights, layer and precision.",
    )


def _why(spread: Spread, agreement: Agreement | None, nearly_full: float) -> str:
    if nearly_full > 0.5:
        return f"{nearly_full:.0%} cover more than {NEARLY_FULL:.0%} of their image."
    alike = f"boxes overlap one and the same box by {spread.median_iou:.2f} in the mean (IoU)"
    if agreement is None or agreement.model is not None:
        return f"{alike}."
    return (
        f"{alike}, and windows of an image get the same box with a kappa of {agreement.kappa:.2f}."
    )


def _advice(localizer: LocalizerInfo | None, remedy: Remedy | None) -> str:
    if localizer is None:
        return "Use boxes that are closer around what each image shows, or none."
    if localizer.choice is not None and localizer.choice.threshold:
        return (
            "Train the encoder for longer, compute with another map (`map` auto looks), layer or "
            "model, or use none."
        )
    anew = "Compute them with `map` auto and `threshold` auto"
    if localizer.choice is not None:
        anew = (
            f"A threshold sets itself by {_FEWEST} or more images that differ, and here there were "
            f"{localizer.choice.images}: compute boxes of more images"
        )
    if remedy:
        return (
            f"{anew}, or rethreshold them: with `{remedy.name}` {remedy.value:g} the mean area "
            f"would be {remedy.mean_area:.0%}."
        )
    return f"{anew}, with another layer or model, or train the encoder for longer."


def cost(effect: CropEffect, verdict: Verdict) -> str | None:
    """Return where windows show less than plain random crops do, and what does not; else None.

    That windows show less of boxes is a sign that they show less of objects, too: lab/audits.md.
    """
    what = least_shown(effect)
    if what is None or (what == "middle" and verdict.word not in (LITTLE, NOTHING)):
        return None
    mine, other = (getattr(windows, what) for windows in (effect.boxed, effect.plain))
    return (
        f"these windows show less of the {_CALLED[what]} than plain random crops ({mine:.2f}, not "
        f"{other:.2f}). The rule overlap with alpha 1 costs nothing of it."
    )


def least_shown(effect: CropEffect) -> Literal["box", "middle"] | None:
    """Return what windows show less of than plain random crops, the box first; None: of neither."""
    boxed, plain = effect.boxed, effect.plain
    if boxed.box < plain.box - _LESS:
        return "box"
    return "middle" if boxed.middle < plain.middle - _LESS else None
