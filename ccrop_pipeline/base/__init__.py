"""What every part needs: files, addresses, ranks, progress and plain values.

Needs the standard library and fsspec only.
"""

from ccrop_pipeline.base.addresses import Location, is_address
from ccrop_pipeline.base.files import BoxFolder, open_folder
from ccrop_pipeline.base.progress import ComputeObserver, StageSeconds
from ccrop_pipeline.base.ranks import ALONE, Ranks

__all__ = [
    "ALONE",
    "BoxFolder",
    "ComputeObserver",
    "Location",
    "Ranks",
    "StageSeconds",
    "is_address",
    "open_folder",
]
