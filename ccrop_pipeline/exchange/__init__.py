"""Boxes from elsewhere and for elsewhere: annotations of other tools, and fixed boxes.

Importing this loads no torch.
"""

from ccrop_pipeline.exchange.annotations import Annotated, Annotations, read_yolo
from ccrop_pipeline.exchange.coco import read_coco
from ccrop_pipeline.exchange.exporting import export_file
from ccrop_pipeline.exchange.fixed import CENTRE_BOX, fixed_boxes
from ccrop_pipeline.exchange.importing import ImportCounts, Several, import_boxes
from ccrop_pipeline.exchange.masks import read_masks
from ccrop_pipeline.exchange.tables import read_csv, read_npz

__all__ = [
    "CENTRE_BOX",
    "Annotated",
    "Annotations",
    "ImportCounts",
    "Several",
    "export_file",
    "fixed_boxes",
    "import_boxes",
    "read_coco",
    "read_csv",
    "read_masks",
    "read_npz",
    "read_yolo",
]
