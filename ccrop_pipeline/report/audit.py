"""Whether the boxes of a box set can change anything, and what would if they cannot."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base import Location
from ccrop_pipeline.boxset import NEARLY_FULL, UNREADABLE, BoxSet, LocalizerInfo, opened

_SAMPLE = 4096  # heatmaps on which other rules are tried
_SHARDS = 8
_FEW = 0.25  # share of nearly full boxes that another rule may leave, to be worth naming
_TENTHS = tuple(tenth / 10 for tenth in range(1, 10))


@dataclass(frozen=True)
class Remedy:
    """Another rule for the same heatmaps, as tried on a sample of them.

    Attributes:
        name: The field of the rule to change, `threshold` or `mass`.
        value: What to set it to.
        mean_area: Mean share of its image that a box would cover.
        images: Number of images in the sample.
    """

    name: str
    value: float
    mean_area: float
    images: int


@dataclass(frozen=True)
class Audit:
    """What a user must know about boxes before training with them.

    Attributes:
        images: Number of rows.
        full: Share of them whose box is the whole image.
        nearly_full: Share whose box covers more than 90 % of the image, full ones included.
        empty: Share without content in their heatmap; their box is the whole image.
        unreadable: Share that could not be decoded; their box is the whole image.
        mean_area: Mean share of its image that a box covers; None without rows.
        area_histogram: Number of boxes that cover up to 10 %, up to 20 %, ... of their image.
        remedy: Another rule that would make a difference where these boxes make none.
        warning: What is wrong with these boxes and what to do, for people; None if nothing is.
    """

    images: int
    full: float
    nearly_full: float
    empty: float
    unreadable: float
    mean_area: float | None
    area_histogram: tuple[int, ...]
    remedy: Remedy | None
    warning: str | None


def audit(boxes: BoxSet | Location) -> Audit:
    """Judge a box set by its own numbers; no true boxes are needed.

    Boxes are taken to be of no use where more than half of them cover more than 90 % of their
    image. Then, if the set has heatmaps, the mildest threshold (or mass, if the boxes come from
    one) in steps of 0.1 is looked for that leaves at most a quarter of such boxes; on up to 4,096
    heatmaps out of up to 8 shards, so that the size of the set does not matter.

    Args:
        boxes: A box set, or its folder: a local path or an address.

    Raises:
        BoxSetError: If the folder holds no complete box set, or a shard of it cannot be read.
    """
    box_set = opened(boxes)
    found = box_set.manifest.statistics
    shares = {name: found.share(count) for name, count in found.counts.items()}
    nearly_full = found.share(found.nearly_full)
    remedy, warning = None, None
    if nearly_full > 0.5:
        located = shares["ok"] > 0.5
        remedy = _remedy(box_set) if located else None
        warning = _no_op(box_set, nearly_full, remedy) if located else _nothing_located(shares)
    return Audit(
        images=box_set.manifest.rows,
        full=found.share(found.full),
        nearly_full=nearly_full,
        empty=shares["empty"],
        unreadable=shares["unreadable"],
        mean_area=found.mean_area,
        area_histogram=found.area_histogram,
        remedy=remedy,
        warning=warning,
    )


def _nothing_located(shares: dict[str, float]) -> str:
    if shares["unreadable"] > shares["empty"]:
        return (
            f"{shares['unreadable']:.0%} of the images could not be decoded, and their boxes are "
            "the whole image. Look at the source."
        )
    return (
        f"{shares['empty']:.0%} of the heatmaps are constant, not finite or without content, and "
        "their boxes are the whole image. Look at the encoder: its weights, layer and precision."
    )


def _no_op(box_set: BoxSet, nearly_full: float, remedy: Remedy | None) -> str:
    what = (
        f"these boxes change nothing: {nearly_full:.0%} cover more than {NEARLY_FULL:.0%} of "
        "their image, so crops go where they would go without them. "
    )
    provenance = box_set.manifest.provenance
    if provenance.localizer is None:
        return what + "Use boxes that are closer around what the images show."
    other_map = (
        "compute with another map, if features can be negative, as those of transformers are "
        "(`map` auto looks)"
        if provenance.localizer.map == "sum"
        else "compute with another map"
    )
    if remedy is None:
        return what + f"Train the encoder for longer, or {other_map}."
    return what + (
        f"With `{remedy.name}` {remedy.value:g} the mean area would be {remedy.mean_area:.0%}: "
        f"rethreshold them. Or train the encoder for longer, or {other_map}."
    )


def _remedy(box_set: BoxSet) -> Remedy | None:
    localizer = box_set.manifest.provenance.localizer
    heatmaps = None if localizer is None else _sample(box_set)
    if localizer is None or heatmaps is None:
        return None
    import torch  # more than a second to import, and most audits end before this

    from ccrop_pipeline.localize import boxes_from_heatmaps, rule_of

    maps = torch.from_numpy(heatmaps)
    for name, value in _milder_first(localizer):
        rule = replace(rule_of(localizer), mean_share=0.0)
        rule = replace(rule, threshold=value) if name == "threshold" else replace(rule, mass=value)
        boxes, _ = boxes_from_heatmaps(maps, rule, localizer.input_size)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        if float((areas > NEARLY_FULL).float().mean()) <= _FEW:
            return Remedy(name, value, float(areas.mean()), len(heatmaps))
    return None


def _milder_first(rule: LocalizerInfo) -> Iterator[tuple[str, float]]:
    if rule.threshold is not None:
        for threshold in _TENTHS:
            if threshold > rule.threshold:
                yield "threshold", threshold
    elif rule.mass is not None:
        for mass in reversed(_TENTHS):
            if mass < rule.mass:
                yield "mass", mass


def _sample(box_set: BoxSet) -> NDArray[np.float16] | None:
    names = [entry.name for entry in box_set.manifest.shards if entry.rows]
    parts = []
    for place in _spread(len(names), _SHARDS):
        table = box_set.read(names[place])
        if table.heatmaps is None:
            return None
        readable = np.flatnonzero(table.status != UNREADABLE)
        rows = readable[_spread(len(readable), _SAMPLE // min(len(names), _SHARDS))]
        parts.append(table.heatmaps[rows])
    return np.concatenate(parts)


def _spread(available: int, wanted: int) -> NDArray[np.int64]:
    """Return up to `wanted` indices below `available`, evenly spread."""
    return np.unique(np.linspace(0, max(0, available - 1), min(available, wanted)).astype(np.int64))
