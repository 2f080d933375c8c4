"""Crop windows: where they go, the transform that cuts them, and decoding into them.

No files are touched here. Sampling needs NumPy only; `ContrastiveCrop` and `as_bounding_box` bring
torchvision in, at first use.
"""

from typing import TYPE_CHECKING, Any

from ccrop_pipeline.crops.randomness import CHOICE, PHOTOMETRIC, WINDOW, key_hash, uniforms
from ccrop_pipeline.crops.resize import crop_and_resize, reduction_for
from ccrop_pipeline.crops.windows import RULES, UNIFORMS_PER_WINDOW, CropParams, sample_windows

if TYPE_CHECKING:
    from ccrop_pipeline.crops.transform import ContrastiveCrop, as_bounding_box, attach_box

__all__ = [
    "CHOICE",
    "PHOTOMETRIC",
    "RULES",
    "UNIFORMS_PER_WINDOW",
    "WINDOW",
    "ContrastiveCrop",
    "CropParams",
    "as_bounding_box",
    "attach_box",
    "crop_and_resize",
    "key_hash",
    "reduction_for",
    "sample_windows",
    "uniforms",
]


def __getattr__(name: str) -> Any:
    if name not in ("ContrastiveCrop", "as_bounding_box", "attach_box"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ccrop_pipeline.crops import transform

    return getattr(transform, name)
