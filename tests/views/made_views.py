"""A small source with a box set, and views collected by key."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from ccrop_pipeline.boxset import BoxTable, Provenance, SourceInfo, write_manifest, write_shard
from ccrop_pipeline.images import Scenes, Source, image_hash, open_source, pack
from ccrop_pipeline.views import Batch
from ccrop_pipeline.views.batch import hash_keys

COUNT = 24


def make_source(folder: Path) -> Source:
    """24 images of 32 px in four tar shards."""
    pack(Scenes(COUNT, size=32), folder, max_images=6)
    return open_source(folder)


def make_boxes(source: Source, folder: Path, seed: int, leave_out: str = "") -> Path:
    """A box set with random boxes for each image, all but one if wanted."""
    random = np.random.default_rng(seed)
    provenance = Provenance(
        None, None, SourceInfo(source.kind, source.fingerprint()), rule=f"random {seed} {leave_out}"
    )
    for shard in source.shards:
        samples = [sample for sample in source.read(shard) if sample.key != leave_out]
        low = random.uniform(0, 0.4, (len(samples), 2))
        boxes = np.concatenate([low, low + random.uniform(0.2, 0.5, low.shape)], 1)
        table = BoxTable(
            [sample.key for sample in samples],
            boxes.astype(np.float32),
            np.full((len(samples), 2), 32, np.uint32),
            np.ones(len(samples), np.uint8),
            np.zeros(len(samples), np.uint8),
            np.array([image_hash(sample.image) for sample in samples], np.uint64),
        )
        write_shard(folder, shard, table, provenance)
    write_manifest(folder, source.shards, provenance)
    return folder


def by_key(batches: Iterable[Batch], source: Source, group: int = 0) -> dict[str, Tensor]:
    """Views (V, 3, S, S) of one group of each image; fails when an image comes twice."""
    keys = list(source.index().keys)
    names = dict(zip(hash_keys(keys).tolist(), keys, strict=True))
    found: dict[str, Tensor] = {}
    for batch in batches:
        for row, hashed in enumerate(batch.hashes.tolist()):
            assert names[hashed] not in found
            found[names[hashed]] = batch.views[group][:, row].clone()
    return found
