"""From a run or any other model to what other code loads: weights, and features of images."""

from ccrop_pipeline.export.backbone import Exported, export_backbone
from ccrop_pipeline.export.embeddings import Embeddings, embed

__all__ = ["Embeddings", "Exported", "embed", "export_backbone"]
