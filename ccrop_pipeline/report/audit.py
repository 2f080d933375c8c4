"""What a box set is worth, by its own numbers: a verdict first, and all that it stands on."""

from dataclasses import dataclass

from ccrop_pipeline.base import Location
from ccrop_pipeline.boxset import BoxSet, opened
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.report.crop_effect import CropEffect, crop_effect
from ccrop_pipeline.report.remedy import Remedy, remedy
from ccrop_pipeline.report.spread import Heat, Spread, heat_of, some_rows, spread_of
from ccrop_pipeline.report.verdict import Agreement, Word, cost, judge, own_share, recorded


@dataclass(frozen=True)
class Audit:
    """What a user must know about boxes before training with them.

    Attributes:
        verdict: Whether they carry anything of their images.
        reason: Why, in one sentence.
        advice: What to do, in one sentence; None where nothing is to be done.
        warning: All three where boxes carry little or nothing, for people; None elsewhere.
        images: Number of rows.
        full: Share of them whose box is the whole image.
        nearly_full: Share whose box covers more than 90 % of the image, full ones included.
        empty: Share without content in their heatmap; their box is the whole image.
        unreadable: Share that could not be decoded; their box is the whole image.
        mean_area: Mean share of its image that a box covers; None without rows.
        area_histogram: Number of boxes that cover up to 10 %, up to 20 %, ... of their image.
        agreement: Of boxes with those of windows; None where no windows were looked at.
        spread: How much boxes differ from one box for all; None without readable rows.
        own: How much of where a box lies is of its own image; without an agreement the most that
            it can be. None without readable rows.
        heat: How much heatmaps differ; None without heatmaps.
        windows: What boxes change about the windows of views; None without readable rows.
        cost: Where windows show less than plain random crops do, in one sentence; else None.
        remedy: Another rule that leaves fewer boxes nearly full, where most are.
    """

    verdict: Word
    reason: str
    advice: str | None
    warning: str | None
    images: int
    full: float
    nearly_full: float
    empty: float
    unreadable: float
    mean_area: float | None
    area_histogram: tuple[int, ...]
    agreement: Agreement | None
    spread: Spread | None
    own: float | None
    heat: Heat | None
    windows: CropEffect | None
    cost: str | None
    remedy: Remedy | None


def audit(
    boxes: BoxSet | Location,
    *,
    crop: CropParams | None = None,
    agreement: Agreement | None = None,
) -> Audit:
    """Judge a box set by its own numbers; no true boxes are needed.

    Areas are those of all rows; the rest is taken of up to 4,096 rows out of up to 8 shards, so
    that the size of the set does not matter. Where most boxes cover more than 90 % of their image,
    and there are heatmaps, the mildest threshold (or mass, if the boxes come from one) in steps of
    0.1 is looked for that leaves at most a quarter of such boxes.

    Args:
        boxes: A box set, or its folder: a local path or an address.
        crop: How windows are drawn; None: as in `CropParams`.
        agreement: Of boxes with those of windows; None: the one that is recorded, where the rule
            set itself.

    Raises:
        BoxSetError: If the folder holds no complete box set, or a shard of it cannot be read.
    """
    box_set = opened(boxes)
    statistics = box_set.manifest.statistics
    made_by = box_set.manifest.provenance
    encoder, localizer = made_by.encoder, made_by.localizer
    agreement = agreement or recorded(localizer)
    rows = some_rows(box_set)
    spread = spread_of(rows.boxes) if rows else None
    nearly_full, ok = map(statistics.share, (statistics.nearly_full, statistics.counts["ok"]))
    other = None
    if rows and localizer and rows.heatmaps is not None and min(nearly_full, ok) > 0.5:
        other = remedy(localizer, rows.heatmaps)
    untrained = encoder is not None and encoder.epoch == 0
    verdict = judge(
        statistics,
        spread,
        agreement,
        localizer,
        other,
        untrained=untrained,
        different=rows.different if rows else 0,
    )
    windows = crop_effect(rows.drawn, rows.sizes, crop or CropParams()) if rows else None
    return Audit(
        verdict=verdict.word,
        reason=verdict.reason,
        advice=verdict.advice,
        warning=verdict.warning,
        images=box_set.manifest.rows,
        full=statistics.share(statistics.full),
        nearly_full=nearly_full,
        empty=statistics.share(statistics.counts["empty"]),
        unreadable=statistics.share(statistics.counts["unreadable"]),
        mean_area=statistics.mean_area,
        area_histogram=statistics.area_histogram,
        agreement=agreement,
        spread=spread,
        own=own_share(spread, agreement) if spread else None,
        heat=heat_of(rows.heatmaps) if rows and rows.heatmaps is not None else None,
        windows=windows,
        cost=cost(windows, verdict) if windows else None,
        remedy=other,
    )
