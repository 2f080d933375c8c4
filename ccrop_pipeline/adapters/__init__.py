"""Boxes in the programs people have: torchvision, timm, lightly, webdataset, Hugging Face.

Wherever images come from, one step joins each to its box by key and attaches the box to the PIL
image, and `ContrastiveCrop` finds it there. `docs/frameworks.md` shows the lines for each of them.
"""

from ccrop_pipeline.adapters.boxed_views import BoxedViews
from ccrop_pipeline.adapters.dataset import BoxedDataset, BoxedRows, add_boxes, folder_keys
from ccrop_pipeline.adapters.replace import replace_crop

__all__ = ["BoxedDataset", "BoxedRows", "BoxedViews", "add_boxes", "folder_keys", "replace_crop"]
