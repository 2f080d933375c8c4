"""MoCo v2 (Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2003.04297)."""

from dataclasses import dataclass

from lightly.models.modules import MoCoProjectionHead

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.moco import MoCo, MoCoSettings


@dataclass(frozen=True)
class MoCoV2Settings(MoCoSettings):
    """Numbers of MoCo v2; see `MoCoSettings`. Temperature 0.2 as in table 2."""

    name: str = "mocov2"


class MoCoV2(MoCo):
    """MoCo with SimCLR's idea of two layers behind the encoder."""

    settings_class = MoCoV2Settings

    def __init__(self, backbone: Backbone, settings: MoCoV2Settings) -> None:
        width = backbone.feature_dim
        projector = MoCoProjectionHead(width, width, settings.projection_dim)
        super().__init__(backbone, settings, projector)
