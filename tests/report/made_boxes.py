"""Box sets of given rows, with an encoder that never was."""

from pathlib import Path

import numpy as np

from ccrop_pipeline.boxset import (
    FULL_BOX,
    UNREADABLE,
    BoxSet,
    BoxTable,
    EncoderInfo,
    LocalizerInfo,
    Provenance,
    SourceInfo,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.localize import BoxRule

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


def table(keys, boxes, status=None, hashes=None, heatmaps=None) -> BoxTable:
    n = len(keys)
    return BoxTable(
        list(keys),
        np.array(boxes, np.float32).reshape(n, 4),
        np.full((n, 2), 48, np.uint32),
        np.ones(n, np.uint8),
        np.zeros(n, np.uint8) if status is None else np.array(status, np.uint8),
        np.arange(1, n + 1).astype(np.uint64) if hashes is None else np.array(hashes, np.uint64),
        heatmaps,
    )


def box_set(folder: Path, tables: list[BoxTable], made_by: Provenance | None = None) -> BoxSet:
    made_by = made_by or provenance()
    names = [f"shard-{number}" for number in range(len(tables))]
    for name, rows in zip(names, tables, strict=True):
        write_shard(folder, name, rows, made_by)
    write_manifest(folder, names, made_by)
    return BoxSet.open(folder)


def located(keys, heatmaps, rule: BoxRule, unreadable=()) -> BoxTable:
    """Rows as computing gives them for these heatmaps; some of images that cannot be read."""
    from ccrop_pipeline.compute.rethreshold import with_rule

    rows = table(keys, [FULL_BOX] * len(keys), heatmaps=heatmaps)
    rows.status[list(unreadable)], rows.heatmaps[list(unreadable)] = UNREADABLE, 0
    return with_rule(rows, rule, map_name="sum", map_size=SIZE)
