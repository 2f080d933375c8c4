"""From images and an encoder to a box set, shard by shard."""

from ccrop_pipeline.compute.box_sets import (
    compute_boxes,
    default_batch_size,
    default_threads,
)
from ccrop_pipeline.compute.choice import provenance_of

__all__ = ["compute_boxes", "default_batch_size", "default_threads", "provenance_of"]
