"""From an image to a box: backbones, encoders that yield feature maps, heatmaps, boxes.

The steps, each a plain function on tensors::

    features = encoder.features(images)                # (B, C, h, w) float32
    heatmaps, usable = min_max(channel_sum(features))  # (B, h, w) float16 in [0, 1]
    boxes, found = boxes_from_heatmaps(heatmaps, threshold=0.1, map_size=224)

This folder needs torch and touches no files.
"""

from ccrop_pipeline.localize.backbones import Backbone, backbone_names, build_backbone
from ccrop_pipeline.localize.boxes import Convention, boxes_from_heatmaps
from ccrop_pipeline.localize.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Encoder,
    weights_sha256,
)
from ccrop_pipeline.localize.heatmaps import channel_sum, min_max

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Backbone",
    "Convention",
    "Encoder",
    "backbone_names",
    "boxes_from_heatmaps",
    "build_backbone",
    "channel_sum",
    "min_max",
    "weights_sha256",
]
