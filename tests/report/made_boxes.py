"""Box sets of given rows, with an encoder that never was."""

from pathlib import Path

import numpy as np

from ccrop_pipeline.boxset import (
    FULL_BOX,
    OK,
    UNREADABLE,
    BoxSet,
    BoxTable,
    EncoderInfo,
    LocalizerInfo,
    Provenance,
    SourceInfo,
)
from ccrop_pipeline.localize import BoxRule
from tests.given_rows import box_set_of, rows_of

SIZE = 64  # pixels that the encoder saw


def provenance(rule: BoxRule | None = None, source: str = "x") -> Provenance:
    if rule is None:
        return Provenance(None, None, SourceInfo("tar", source), rule="made for a test")
    localizer = LocalizerInfo(
        "sum",
        rule.threshold,
        rule.mass,
        rule.component,
        rule.margin,
        rule.min_size,
        "bilinear",
        SIZE,
        "none",
        mean_share=rule.mean_share,
        centre_weight=rule.centre_weight,
        objects=rule.objects,
    )
    return Provenance(EncoderInfo("net", "layer", "0" * 64, 1), localizer, SourceInfo("tar", "x"))


def table(keys, boxes, status=OK, hashes=None, heatmaps=None) -> BoxTable:
    hashes = np.arange(1, len(keys) + 1) if hashes is None else hashes
    return rows_of(keys, boxes, status=status, hashes=hashes, heatmaps=heatmaps)


def box_set(folder: Path, tables: list[BoxTable], made_by: Provenance | None = None) -> BoxSet:
    return box_set_of(folder, *tables, made_by=made_by or provenance())


def located(keys, heatmaps, rule: BoxRule, unreadable=()) -> BoxTable:
    """Rows as computing gives them for these heatmaps; some of images that cannot be read."""
    from ccrop_pipeline.compute.rethreshold import with_rule

    rows = table(keys, [FULL_BOX] * len(keys), heatmaps=heatmaps)
    rows.status[list(unreadable)], rows.heatmaps[list(unreadable)] = UNREADABLE, 0
    return with_rule(rows, rule, map_name="sum", map_size=SIZE)
