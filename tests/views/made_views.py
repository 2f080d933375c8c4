"""A small source with a box set, and views collected by key."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from given_rows import box_set_of, rows_of
from torch import Tensor

from ccrop_pipeline.boxset import Provenance, SourceInfo
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
    tables = []
    for shard in source.shards:
        samples = [sample for sample in source.read(shard) if sample.key != leave_out]
        low = random.uniform(0, 0.4, (len(samples), 2))
        boxes = np.concatenate([low, low + random.uniform(0.2, 0.5, low.shape)], 1)
        hashes = [image_hash(sample.image) for sample in samples]
        keys = [sample.key for sample in samples]
        tables.append(rows_of(keys, boxes, sizes=(32, 32), hashes=hashes))
    box_set_of(folder, *tables, names=source.shards, made_by=provenance)
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
