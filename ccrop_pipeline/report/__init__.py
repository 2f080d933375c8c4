"""What a person looks at: box quality against true boxes, and contact sheets."""

from ccrop_pipeline.report.contact_sheet import contact_sheet
from ccrop_pipeline.report.quality import CENTRE_70, Quality, box_quality, iou

__all__ = ["CENTRE_70", "Quality", "box_quality", "contact_sheet", "iou"]
