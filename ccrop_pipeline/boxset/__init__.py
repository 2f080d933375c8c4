"""The box set format: the boxes of one encoder over one source, in files, keyed and verifiable.

Needs numpy and pyarrow, but no torch, and of this package `base` alone, but for
`rejoined`, which is imported where images are read. `docs/format.md` is its
specification, from which any program can read and write box sets without this package.
"""

from ccrop_pipeline.boxset.boxes import FULL_BOX, Choices, iou, upright
from ccrop_pipeline.boxset.lookup import BoxLookup
from ccrop_pipeline.boxset.manifest import Manifest, ShardEntry
from ccrop_pipeline.boxset.provenance import (
    EncoderInfo,
    LocalizerInfo,
    Provenance,
    RuleChoice,
    SourceInfo,
    library_versions,
)
from ccrop_pipeline.boxset.reader import Boxes, BoxSet, MissingBoxError, MissingBoxes, opened
from ccrop_pipeline.boxset.rules import RULES, Problem
from ccrop_pipeline.boxset.shards import (
    FORMS,
    missing_shards,
    shard_is_complete,
    write_shard,
    write_shard_once,
)
from ccrop_pipeline.boxset.statistics import NEARLY_FULL, BoxStatistics
from ccrop_pipeline.boxset.table import EMPTY, OK, STATUSES, UNREADABLE, BoxRow, BoxTable
from ccrop_pipeline.boxset.validation import SourceImage, validate
from ccrop_pipeline.boxset.writing import (
    convert,
    left_to_write,
    provenance_in,
    refuse_foreign,
    strangers,
    write_manifest,
)

__all__ = [
    "EMPTY",
    "FORMS",
    "FULL_BOX",
    "NEARLY_FULL",
    "OK",
    "RULES",
    "STATUSES",
    "UNREADABLE",
    "BoxLookup",
    "BoxRow",
    "BoxSet",
    "BoxStatistics",
    "BoxTable",
    "Boxes",
    "Choices",
    "EncoderInfo",
    "LocalizerInfo",
    "Manifest",
    "MissingBoxError",
    "MissingBoxes",
    "Problem",
    "Provenance",
    "RuleChoice",
    "ShardEntry",
    "SourceImage",
    "SourceInfo",
    "convert",
    "iou",
    "left_to_write",
    "library_versions",
    "missing_shards",
    "opened",
    "provenance_in",
    "refuse_foreign",
    "shard_is_complete",
    "strangers",
    "upright",
    "validate",
    "write_manifest",
    "write_shard",
    "write_shard_once",
]
