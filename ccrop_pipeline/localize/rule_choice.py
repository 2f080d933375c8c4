"""The box rule that sets itself: a threshold chosen on images and windows of them, with no label.

A few windows are cut from each of some images, and their heatmaps computed as well. Content is what
is above `p / 2` plus half of the heatmap's own mean. Each p is judged by two figures, which look at
no true box: `kappa`, whether boxes carry anything of their image, and `freedom`, whether they are
as large as what they are around. lab/self-setting.md has how that was found, and how well it does.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ccrop_pipeline.boxset import RuleChoice
from ccrop_pipeline.localize.box_rules import BoxRule, boxes_from_heatmaps

Floats = NDArray[np.floating]
WINDOWS = 2  # of each image
SIDES = (0.65, 0.9)  # of a window, as shares of those of the image
MEAN_SHARE = 0.5
THRESHOLDS = tuple(step / 40 for step in range(20))  # half of p: 0, .05, ... .95
# On fewer images the figures say little; then the threshold of ContrastiveCrop (arXiv:2202.03278).
FEWEST = 32
FALLBACK = 0.1
_EXPONENT = 0.75
# Kappa of boxes that are believed although they spread too far: in the middle between the sets of
# lab/self-setting.md that are worth something, 0.84 and more, and the others, 0.63 and less.
_SURE = 0.73
_NEAR = 0.85  # of the greatest kappa: boxes that agree worse than others could are not taken
# Boxes that agree worse than `_WEAK`, or are worth nothing, are moved to the middle of the image.
_WEAK, _CENTRE_WEIGHT = 0.6, 0.5
_CHANCE = 0.2  # kappa of boxes that are hardly nearer to their own window's than any other's
_NEARLY_FULL = 0.97  # mean area beyond which centres say nothing
_MAP_SIZE = 112  # the most pixels a side that boxes are compared at
_DIGITS = 4


def draw_windows(seed: int) -> NDArray[np.float64]:
    """Return windows of one image, `(WINDOWS, 4)`, relative to it; the same for the same seed."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(*SIDES, (WINDOWS, 2))
    corners = rng.uniform(0, 1 - sides)
    return np.concatenate([corners, corners + sides], axis=1)


def kappa(boxes: Floats, inside: Floats, windows: Floats) -> float:
    """Return the agreement of the boxes of images with those of their windows, beyond chance.

    1 - d / c, with d the mean squared distance between the centre of an image's box, clipped to
    the window, and that of the window's own box, and c the same for the boxes of all other images
    in its place. It is Cohen's kappa with quadratic weights (Psychological Bulletin 70, 1968).

    Args:
        boxes: Of the images, `(n, 4)`.
        inside: Of the windows, relative to each of them, `(n, k, 4)`.
        windows: Windows, relative to their image, `(n, k, 4)`.

    Returns:
        1 for perfect agreement, 0 for that of chance, or where there is nothing to tell apart.
    """
    corner = np.tile(windows[..., :2], 2)
    side = np.tile(windows[..., 2:] - windows[..., :2], 2)

    def distance(of: Floats) -> float:
        clipped = ((of[:, None] - corner) / side).clip(0, 1)
        apart = (clipped[..., :2] + clipped[..., 2:] - inside[..., :2] - inside[..., 2:]) / 2
        return float((apart**2).mean())

    others = [distance(np.roll(boxes, shift, axis=0)) for shift in range(1, len(boxes))]
    chance = float(np.mean(others)) if others else 0.0
    return 1 - distance(boxes) / chance if chance else 0.0


def freedom(boxes: Floats) -> float:
    """Return how far boxes `(n, 4)` spread, over how far those of their size could.

    The standard deviation of their centres over that of boxes of their mean side s which lie
    anywhere in the image, (1 - s) / sqrt(12); mean of the two axes.
    """
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return float((np.sqrt(12 * centres.var(axis=0)) / (1 - sides.mean(axis=0) + 1e-6)).mean())


def first_fit(choice: RuleChoice) -> int | None:
    """Return which of the thresholds tried is taken: the first whose boxes are not too large.

    Boxes that are too large are cut by the borders, which spreads their centres: freedom is above
    1. Only part of the spread is that of objects, and kappa says how much. It must be near the
    greatest of all, or nearly whole images would pass, which agree by little and spread by little.
    Where freedom always is above 1, the last threshold if kappa is high. None where boxes hang at
    the borders or agree with those of their windows by chance alone.
    """
    rows = list(zip(choice.kappa, choice.freedom, choice.mean_area, strict=True))
    most = max((agreement for agreement, _, area in rows if area < _NEARLY_FULL), default=0.0)
    if most <= _CHANCE:
        return None
    for at, (agreement, spread, area) in enumerate(rows):
        if area < _NEARLY_FULL and agreement >= _NEAR * most and spread * agreement**_EXPONENT < 1:
            return at
    return len(rows) - 1 if choice.kappa[-1] > _SURE else None


def weight_of(tried: RuleChoice, objects: int = 1) -> float:
    """Return the centre weight of boxes: half where they agree badly, or are worth nothing.

    As an estimate is shrunk to what is known without it (Stein 1956), the less it says. None of
    several objects an image is moved.
    """
    if objects > 1 or not tried.threshold:
        return 0.0
    at = first_fit(tried)
    return _CENTRE_WEIGHT if at is None or tried.kappa[at] < _WEAK else 0.0


def too_few(rule: BoxRule, images: int) -> tuple[BoxRule, RuleChoice]:
    """Return the rule that is taken where there are fewer images than `FEWEST`."""
    return replace(rule, threshold=FALLBACK), RuleChoice(images, WINDOWS, worthless=False)


def choose_rule(
    rule: BoxRule,
    heatmaps: NDArray[np.float16],
    inside: NDArray[np.float16],
    windows: Floats,
    map_size: int,
) -> tuple[BoxRule, RuleChoice]:
    """Give a rule that sets itself its threshold, its share of the mean and its centre weight.

    Args:
        rule: Its component is used, its margin and its least size are kept.
        heatmaps: Of images, `(n, h, w)`, each with any heat.
        inside: Of windows of them, `(n, WINDOWS, h, w)`.
        windows: The windows, relative to their image, `(n, WINDOWS, 4)`.
        map_size: Side that heatmaps are upsampled to for boxes.

    Returns:
        The rule, and on what it was chosen. On fewer than `FEWEST` images, that of `too_few`;
        where boxes are worth nothing, that with the largest boxes, which does the least harm.
        Boxes have the centre weight of the rule, or else that of `weight_of`.
    """
    n = len(heatmaps)
    if n < FEWEST:
        return too_few(rule, n)
    every = torch.from_numpy(np.concatenate([heatmaps, inside.reshape(-1, *heatmaps.shape[1:])]))
    size = min(map_size, _MAP_SIZE)
    rows = []
    for threshold in THRESHOLDS:
        tried = BoxRule(threshold, mean_share=MEAN_SHARE, component=rule.component)
        found = boxes_from_heatmaps(every, tried, size)[0].double().numpy()
        boxes, cut = found[:n], found[n:].reshape(n, -1, 4)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).mean()
        figures = (kappa(boxes, cut, windows), freedom(boxes), float(area))
        rows.append([round(figure, _DIGITS) for figure in figures])
    columns = zip(*rows, strict=True)
    tried_all = RuleChoice(n, WINDOWS, False, THRESHOLDS, *map(tuple, columns))  # noqa: FBT003
    at = first_fit(tried_all)
    choice = replace(tried_all, worthless=at is None)
    given = rule.centre_weight
    weight = weight_of(choice, rule.objects) if given is None else given
    rule = replace(rule, threshold=THRESHOLDS[at or 0], mean_share=MEAN_SHARE)
    return replace(rule, centre_weight=weight), choice
