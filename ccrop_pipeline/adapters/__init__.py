"""Boxes in the programs people have: torchvision, timm, lightly, webdataset, Hugging Face.

Wherever images come from, one step joins each to its box by key and attaches the box to the PIL
image, and `ContrastiveCrop` finds it there. `docs/frameworks.md` shows the lines for each of them.
"""

from ccrop_pipeline.adapters.dataset import BoxedDataset, folder_keys
from ccrop_pipeline.adapters.replace import replace_crop
from ccrop_pipeline.adapters.rows import BoxedRows
from ccrop_pipeline.adapters.stage import add_boxes
from ccrop_pipeline.boxset import BoxFinder
from ccrop_pipeline.crops.transform import ContrastiveCrop, attach_box

__all__ = [
    "BoxFinder",
    "BoxedDataset",
    "BoxedRows",
    "ContrastiveCrop",
    "add_boxes",
    "attach_box",
    "folder_keys",
    "replace_crop",
]
