"""Images and boxes joined by key, as batches of views.

Loaders return uint8 crops; `Augment` changes their colours and flips them, batched, on the
device that trains.
"""

from ccrop_pipeline.recipes import AugmentSettings, ViewGroup
from ccrop_pipeline.views.augment import Augment
from ccrop_pipeline.views.batch import Batch
from ccrop_pipeline.views.cutter import ViewCutter
from ccrop_pipeline.views.loader import Loader
from ccrop_pipeline.views.map_style import MapLoader, MapViews
from ccrop_pipeline.views.resident import ResidentImages, ResidentLoader, canvas_within, load_images
from ccrop_pipeline.views.streaming import StreamLoader

__all__ = [
    "Augment",
    "AugmentSettings",
    "Batch",
    "Loader",
    "MapLoader",
    "MapViews",
    "ResidentImages",
    "ResidentLoader",
    "StreamLoader",
    "ViewCutter",
    "ViewGroup",
    "canvas_within",
    "load_images",
]
