"""Where images come from: tars here or elsewhere, folders, Parquet, torchvision, and scenes.

A source hands out encoded bytes in stored order, shard by shard, or by position through its
index; it decodes nothing. `open_source` recognises what is on disk, and `pack` turns any
source into WebDataset tars. Importing this loads no torch.
"""

from ccrop_pipeline.images.decode import (
    ImageHeader,
    UnreadableImage,
    decode,
    decode_reduced,
    read_header,
    stored_size,
)
from ccrop_pipeline.images.folder import FolderSource
from ccrop_pipeline.images.opening import absolute_spec, expand_braces, open_source
from ccrop_pipeline.images.pack import PackSummary, pack, tar_key
from ccrop_pipeline.images.parquet import ParquetSource
from ccrop_pipeline.images.remote import RemoteTarSource
from ccrop_pipeline.images.scenes import Scenes
from ccrop_pipeline.images.source import (
    ImageIndex,
    Sample,
    Source,
    image_hash,
    spread_samples,
    true_boxes,
)
from ccrop_pipeline.images.splits import SplitsError
from ccrop_pipeline.images.tar import TarSource, refuse_wrong_keys
from ccrop_pipeline.images.torchvision_data import TorchvisionSource, open_torchvision

__all__ = [
    "FolderSource",
    "ImageHeader",
    "ImageIndex",
    "PackSummary",
    "ParquetSource",
    "RemoteTarSource",
    "Sample",
    "Scenes",
    "Source",
    "SplitsError",
    "TarSource",
    "TorchvisionSource",
    "UnreadableImage",
    "absolute_spec",
    "decode",
    "decode_reduced",
    "expand_braces",
    "image_hash",
    "open_source",
    "open_torchvision",
    "pack",
    "read_header",
    "refuse_wrong_keys",
    "spread_samples",
    "stored_size",
    "tar_key",
    "true_boxes",
]
