"""Box sets made for measuring: any keys and boxes, written as `boxes compute` writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ccrop_pipeline.boxset import BoxTable, Provenance, SourceInfo, write_manifest, write_shard

Rows = tuple[Sequence[str], np.ndarray]  # keys; boxes float32 (n, 4)


def write_box_set(folder: Path, shards: Mapping[str, Rows]) -> Path:
    """Write a complete box set, one shard of rows after the other, and returns its folder."""
    provenance = Provenance(None, None, SourceInfo("memory", "0" * 64), rule="made for measuring")
    for name, (keys, boxes) in shards.items():
        n = len(keys)
        sizes, status = np.full((n, 2), 256, np.uint32), np.zeros(n, np.uint8)
        hashes = np.random.default_rng(n).integers(0, 2**63, n).astype(np.uint64)
        orientation = np.ones(len(keys), np.uint8)
        table = BoxTable(list(keys), boxes, sizes, orientation, status, hashes)
        write_shard(folder, name, table, provenance)
    write_manifest(folder, list(shards), provenance)
    return folder
