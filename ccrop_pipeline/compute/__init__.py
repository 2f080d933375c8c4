"""From images and an encoder to a box set, shard by shard."""

from ccrop_pipeline.compute.driver import compute_boxes, provenance_of
from ccrop_pipeline.compute.observer import ComputeObserver, StageSeconds
from ccrop_pipeline.compute.settings import ComputeSettings
from ccrop_pipeline.compute.shards import compute_shards, default_batch_size, default_threads
from ccrop_pipeline.compute.share import Share

__all__ = [
    "ComputeObserver",
    "ComputeSettings",
    "Share",
    "StageSeconds",
    "compute_boxes",
    "compute_shards",
    "default_batch_size",
    "default_threads",
    "provenance_of",
]
