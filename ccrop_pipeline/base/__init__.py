"""What every part needs: files, addresses, ranks, progress and plain values.

Needs the standard library and fsspec only.
"""

from ccrop_pipeline.base.addresses import Location, absolute, is_address
from ccrop_pipeline.base.progress import SILENT, Observer, StageSeconds, StepReport
from ccrop_pipeline.base.ranks import ALONE, Ranks
from ccrop_pipeline.base.stores import BoxFolder, open_folder

__all__ = [
    "ALONE",
    "SILENT",
    "BoxFolder",
    "Location",
    "Observer",
    "Ranks",
    "StageSeconds",
    "StepReport",
    "absolute",
    "is_address",
    "open_folder",
]
