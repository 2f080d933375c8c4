"""Images and boxes joined by key, as batches of views: `ViewLoader`."""

from ccrop_pipeline.recipes import AugmentSettings, ViewGroup
from ccrop_pipeline.views.batch import Batch
from ccrop_pipeline.views.cutter import ViewCutter
from ccrop_pipeline.views.loader import ViewLoader

__all__ = ["AugmentSettings", "Batch", "ViewCutter", "ViewGroup", "ViewLoader"]
