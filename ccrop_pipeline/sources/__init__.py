"""Where images come from: tars here or elsewhere, folders, Parquet, torchvision, and scenes.

A source hands out encoded bytes in stored order, shard by shard, or by position through its
index; it decodes nothing. ``open_source`` recognises what lies on disk, and ``pack`` turns any
source into WebDataset tars. Importing this loads no torch.
"""

from ccrop_pipeline.sources.annotation import true_boxes
from ccrop_pipeline.sources.folder import FolderSource
from ccrop_pipeline.sources.opening import expand_braces, open_source
from ccrop_pipeline.sources.pack import PackSummary, pack, tar_key
from ccrop_pipeline.sources.parquet import ParquetSource
from ccrop_pipeline.sources.remote import RemoteTarSource
from ccrop_pipeline.sources.scenes import Scenes
from ccrop_pipeline.sources.source import ImageIndex, Sample, Source, image_hash
from ccrop_pipeline.sources.tar import TarSource
from ccrop_pipeline.sources.torchvision_data import TorchvisionSource, open_torchvision

__all__ = [
    "FolderSource",
    "ImageIndex",
    "PackSummary",
    "ParquetSource",
    "RemoteTarSource",
    "Sample",
    "Scenes",
    "Source",
    "TarSource",
    "TorchvisionSource",
    "expand_braces",
    "image_hash",
    "open_source",
    "open_torchvision",
    "pack",
    "tar_key",
    "true_boxes",
]
