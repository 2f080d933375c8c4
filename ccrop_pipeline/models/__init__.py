"""From what a user names to an encoder: checkpoints, libraries, exported programs, factories.

    encoder = open_encoder("moco_v2_800ep.pth.tar", ModelOptions())
    encoder = open_encoder("timm:vit_small_patch16_224", ModelOptions(layer="blocks.8"))

Weights are read without running code from the file, unless that is asked for. This folder needs
torch; timm only for what is timm's.
"""

from ccrop_pipeline.models.layers import LayerInfo, layers_of
from ccrop_pipeline.models.open_model import ModelOptions, open_encoder, rule_of_run

__all__ = ["LayerInfo", "ModelOptions", "layers_of", "open_encoder", "rule_of_run"]
