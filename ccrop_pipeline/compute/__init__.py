"""From images and an encoder to a box set, shard by shard."""

from ccrop_pipeline.compute.driver import compute_boxes, provenance_of
from ccrop_pipeline.compute.pipeline import compute_shards, default_batch_size, default_threads
from ccrop_pipeline.compute.settings import ComputeSettings

__all__ = [
    "ComputeSettings",
    "compute_boxes",
    "compute_shards",
    "default_batch_size",
    "default_threads",
    "provenance_of",
]
