"""What a person looks at: audits, differences, quality against true boxes, contact sheets."""

from ccrop_pipeline.report.audit import Audit, audit
from ccrop_pipeline.report.boxes_page import report_boxes
from ccrop_pipeline.report.contact_sheet import contact_sheet, draw_mean_heatmap
from ccrop_pipeline.report.diff import BoxDiff, diff
from ccrop_pipeline.report.quality import CENTRE_70, Quality, box_quality
from ccrop_pipeline.report.run_page import report_run
from ccrop_pipeline.report.show import Pick, pick_keys, show

__all__ = [
    "CENTRE_70",
    "Audit",
    "BoxDiff",
    "Pick",
    "Quality",
    "audit",
    "box_quality",
    "contact_sheet",
    "diff",
    "draw_mean_heatmap",
    "pick_keys",
    "report_boxes",
    "report_run",
    "show",
]
