"""Box sets whose rows are given."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccrop_pipeline.boxset import (
    OK,
    BoxSet,
    BoxTable,
    Choices,
    Provenance,
    SourceInfo,
    write_manifest,
    write_shard,
)

MADE = Provenance(None, None, SourceInfo("folder", "00"), rule="made for a test")


def rows_of(
    keys: Sequence[str],
    boxes: Any,
    *,
    sizes: Any = (48, 48),
    orientation: int = 1,
    status: Any = OK,
    hashes: Any = 0,
    heatmaps: Any = None,
) -> BoxTable:
    """Return rows with boxes (n, 4), or with choices; what is given once is that of all images."""
    n, choices = len(keys), boxes if isinstance(boxes, Choices) else None
    return BoxTable(
        list(keys),
        np.array(boxes, np.float32).reshape(n, 4) if choices is None else choices.union(),
        np.broadcast_to(np.array(sizes, np.uint32).reshape(-1, 2), (n, 2)).copy(),
        np.full(n, orientation, np.uint8),
        np.full(n, status, np.uint8),
        np.broadcast_to(np.array(hashes, np.uint64), n).copy(),  # a list as float64 would round
        heatmaps,
        choices,
    )


def box_set_of(
    folder: Path, *tables: BoxTable, names: Sequence[str] = (), made_by: Provenance = MADE
) -> BoxSet:
    """Write a shard for each table."""
    names = names or [f"s-{number}" for number in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        write_shard(folder, name, table, made_by)
    write_manifest(folder, names, made_by)
    return BoxSet.open(folder)
