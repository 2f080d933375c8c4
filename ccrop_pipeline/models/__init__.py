"""From what a user names to an encoder: checkpoints, libraries, exported programs, factories.

    encoder = open_encoder("moco_v2_800ep.pth.tar")
    encoder = open_encoder("timm:vit_small_patch16_224", layer="blocks.8")

Weights are read without running code from the file, unless that is asked for. All but
`sealed_files` needs torch, which comes in at first use; timm only for what is timm's.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccrop_pipeline.models.layers import LayerInfo, layers_of
    from ccrop_pipeline.models.open_model import open_encoder
    from ccrop_pipeline.models.own_checkpoints import read_own

__all__ = ["LayerInfo", "layers_of", "open_encoder", "read_own"]

_FILES = {
    "LayerInfo": "layers",
    "layers_of": "layers",
    "open_encoder": "open_model",
    "read_own": "own_checkpoints",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
