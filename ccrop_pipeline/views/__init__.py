"""Images and boxes joined by key, as batches of views.

Loaders return uint8 crops; `Augment` changes their colours and flips them, batched, on the
device that trains.
"""

from ccrop_pipeline.views.augment import Augment, AugmentSettings
from ccrop_pipeline.views.batch import Batch
from ccrop_pipeline.views.boxes import MissingBoxes, join_boxes
from ccrop_pipeline.views.cutter import ViewCutter
from ccrop_pipeline.views.map_style import MapLoader, MapViews
from ccrop_pipeline.views.streaming import StreamViews, stream_loader

__all__ = [
    "Augment",
    "AugmentSettings",
    "Batch",
    "MapLoader",
    "MapViews",
    "MissingBoxes",
    "StreamViews",
    "ViewCutter",
    "join_boxes",
    "stream_loader",
]
