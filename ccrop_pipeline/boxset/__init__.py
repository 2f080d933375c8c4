"""The box set format: the boxes of one encoder over one source, in files, keyed and verifiable.

Needs numpy and pyarrow and nothing else of this project, so that any program can use it.
`docs/format.md` is its specification.
"""

from ccrop_pipeline.boxset.choices import Choices
from ccrop_pipeline.boxset.convert import convert
from ccrop_pipeline.boxset.finder import BoxFinder, MissingBoxes
from ccrop_pipeline.boxset.folder import BoxFolder, Location, is_address, open_folder
from ccrop_pipeline.boxset.lookup import BoxLookup
from ccrop_pipeline.boxset.manifest import Manifest, ShardEntry, write_manifest
from ccrop_pipeline.boxset.overlap import iou
from ccrop_pipeline.boxset.provenance import EncoderInfo, LocalizerInfo, Provenance, SourceInfo
from ccrop_pipeline.boxset.reader import BoxSet
from ccrop_pipeline.boxset.rules import RULES, Problem
from ccrop_pipeline.boxset.shards import (
    FORMS,
    missing_shards,
    shard_is_complete,
    write_shard,
    write_shard_once,
)
from ccrop_pipeline.boxset.table import (
    EMPTY,
    FULL_BOX,
    OK,
    STATUSES,
    UNREADABLE,
    BoxTable,
)
from ccrop_pipeline.boxset.validate import SourceImage, validate

__all__ = [
    "EMPTY",
    "FORMS",
    "FULL_BOX",
    "OK",
    "RULES",
    "STATUSES",
    "UNREADABLE",
    "BoxFinder",
    "BoxFolder",
    "BoxLookup",
    "BoxSet",
    "BoxTable",
    "Choices",
    "EncoderInfo",
    "LocalizerInfo",
    "Location",
    "Manifest",
    "MissingBoxes",
    "Problem",
    "Provenance",
    "ShardEntry",
    "SourceImage",
    "SourceInfo",
    "convert",
    "iou",
    "is_address",
    "missing_shards",
    "open_folder",
    "shard_is_complete",
    "validate",
    "write_manifest",
    "write_shard",
    "write_shard_once",
]
