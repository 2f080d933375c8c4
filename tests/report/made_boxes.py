"""Box sets of given rows, with an encoder that never was."""

from pathlib import Path

import numpy as np

from ccrop_pipeline.boxset import (
    EMPTY,
    FULL_BOX,
    OK,
    BoxSet,
    BoxTable,
    EncoderInfo,
    LocalizerInfo,
    Provenance,
    SourceInfo,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.localize import BoxRule, boxes_from_heatmaps

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


def located(keys, heatmaps, rule: BoxRule) -> BoxTable:
    """Rows as computing gives them for these heatmaps."""
    import torch

    boxes, found = boxes_from_heatmaps(torch.from_numpy(heatmaps), rule, SIZE)
    status = np.where(found.numpy(), OK, EMPTY)
    edges = boxes.numpy()
    edges[status != OK] = FULL_BOX
    return table(keys, edges, status, heatmaps=heatmaps)
