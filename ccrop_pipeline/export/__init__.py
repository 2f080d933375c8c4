"""From a run to weights that other code loads."""

from ccrop_pipeline.export.backbone import Exported, export_backbone

__all__ = ["Exported", "export_backbone"]
