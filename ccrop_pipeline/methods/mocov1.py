"""MoCo v1 (He et al., "Momentum Contrast", CVPR 2020, arXiv:1911.05722)."""

from dataclasses import dataclass

from torch import nn

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.moco import MoCo, MoCoSettings
from ccrop_pipeline.methods.settings import positive


@dataclass(frozen=True)
class MoCoV1Settings(MoCoSettings):
    """Numbers of MoCo v1; see `MoCoSettings`. Temperature 0.07 as in section 3.3."""

    name: str = "mocov1"
    temperature: float = positive(0.07)


class MoCoV1(MoCo):
    """MoCo with one linear layer behind the encoder."""

    settings_class = MoCoV1Settings

    def __init__(self, backbone: Backbone, settings: MoCoV1Settings) -> None:
        projector = nn.Linear(backbone.feature_dim, settings.projection_dim)
        super().__init__(backbone, settings, projector)
