"""Boxes from elsewhere and for elsewhere: annotations of other tools, and fixed boxes.

Importing this loads no torch.
"""

from ccrop_pipeline.exchange.annotations import Annotated, Annotations
from ccrop_pipeline.exchange.coco import read_coco
from ccrop_pipeline.exchange.cvat import read_cvat
from ccrop_pipeline.exchange.exporting import export_boxes
from ccrop_pipeline.exchange.fiftyone import read_fiftyone
from ccrop_pipeline.exchange.fixed import CENTRE_BOX, fixed_boxes
from ccrop_pipeline.exchange.importing import ImportCounts, Several, import_boxes
from ccrop_pipeline.exchange.label_studio import read_label_studio
from ccrop_pipeline.exchange.masks import read_masks
from ccrop_pipeline.exchange.tables import read_csv, read_npz, read_open_images
from ccrop_pipeline.exchange.yolo import read_yolo

__all__ = [
    "CENTRE_BOX",
    "Annotated",
    "Annotations",
    "ImportCounts",
    "Several",
    "export_boxes",
    "fixed_boxes",
    "import_boxes",
    "read_coco",
    "read_csv",
    "read_cvat",
    "read_fiftyone",
    "read_label_studio",
    "read_masks",
    "read_npz",
    "read_open_images",
    "read_yolo",
]
