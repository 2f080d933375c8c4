"""From what a user names to an encoder: checkpoints, libraries, exported programs, factories.

    encoder = open_encoder("moco_v2_800ep.pth.tar")
    encoder = open_encoder("timm:vit_small_patch16_224", layer="blocks.8")

Weights are read without running code from the file, unless that is asked for. This folder needs
torch; timm only for what is timm's.
"""

from ccrop_pipeline.models.layers import LayerInfo, layers_of
from ccrop_pipeline.models.open_model import open_encoder
from ccrop_pipeline.models.own_checkpoints import read_own

__all__ = ["LayerInfo", "layers_of", "open_encoder", "read_own"]
