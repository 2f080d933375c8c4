"""From an image to a box: backbones, encoders that yield feature maps, heatmaps, boxes.

The steps, each a plain function on tensors::

    features = encoder.features(images)                # (B, C, h, w) float32
    heatmaps = min_max(channel_sum(features))          # (B, h, w) float16 in [0, 1]
    boxes, found = boxes_from_heatmaps(heatmaps, BoxRule(threshold=0.1), map_size=224)

`Localizer` does them all, with the map and the rule that are asked for.

This folder needs torch and touches no files.
"""

from ccrop_pipeline.localize.attention import Attention
from ccrop_pipeline.localize.backbones import (
    Backbone,
    backbone_names,
    build_backbone,
)
from ccrop_pipeline.localize.box_rules import BoxRule, boxes_from_heatmaps, object_boxes
from ccrop_pipeline.localize.discovery import CellSource
from ccrop_pipeline.localize.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Encoder,
)
from ccrop_pipeline.localize.heatmaps import channel_sum, min_max
from ccrop_pipeline.localize.linear_head import LinearHead
from ccrop_pipeline.localize.localizer import (
    MAPS,
    MASKS,
    NATURAL_THRESHOLDS,
    Localizer,
    choose_map,
    open_device,
    rule_of,
    to_device,
)
from ccrop_pipeline.localize.weights import state_sha256, weights_sha256

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MAPS",
    "MASKS",
    "NATURAL_THRESHOLDS",
    "Attention",
    "Backbone",
    "BoxRule",
    "CellSource",
    "Encoder",
    "LinearHead",
    "Localizer",
    "backbone_names",
    "boxes_from_heatmaps",
    "build_backbone",
    "channel_sum",
    "choose_map",
    "min_max",
    "object_boxes",
    "open_device",
    "rule_of",
    "state_sha256",
    "to_device",
    "weights_sha256",
]
