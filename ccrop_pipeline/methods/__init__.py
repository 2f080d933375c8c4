"""Self-supervised methods: one short file each, on lightly's heads and losses.

The driver asks a method for a loss, and tells it when a step begins and when gradients are there.
What is a method's own (momentum encoders, queues, centres) stays inside it; its settings are in
`recipes.method_settings`.
"""

from ccrop_pipeline.localize import Backbone, build_backbone
from ccrop_pipeline.methods.barlowtwins import BarlowTwins
from ccrop_pipeline.methods.byol import BYOL
from ccrop_pipeline.methods.dino import DINO
from ccrop_pipeline.methods.lejepa import LeJEPA
from ccrop_pipeline.methods.method import Method, StepOutput
from ccrop_pipeline.methods.moco import MoCoV1, MoCoV2
from ccrop_pipeline.methods.mocov3 import MoCoV3
from ccrop_pipeline.methods.shared import embedding_std, gathered
from ccrop_pipeline.methods.simclr import SimCLR
from ccrop_pipeline.methods.simsiam import SimSiam
from ccrop_pipeline.methods.vicreg import VICReg
from ccrop_pipeline.recipes import MethodSettings

__all__ = [
    "METHODS",
    "Method",
    "StepOutput",
    "build_method",
    "embedding_std",
    "gathered",
]

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "mocov1": MoCoV1,
    "mocov2": MoCoV2,
    "mocov3": MoCoV3,
    "byol": BYOL,
    "simsiam": SimSiam,
    "dino": DINO,
    "barlowtwins": BarlowTwins,
    "vicreg": VICReg,
    "lejepa": LeJEPA,
}


def build_method(settings: MethodSettings, backbone: Backbone | str) -> Method:
    """Build a method around a backbone.

    New weights come from torch's global generator: seed it first.

    Args:
        settings: Of the type `settings_type(settings.name)`.
        backbone: What is trained, or a name that `build_backbone` knows.

    Raises:
        CcropError: If the backbone is unknown, or the settings are another method's.
    """
    if isinstance(backbone, str):
        backbone = build_backbone(backbone)
    return METHODS[settings.name](backbone, settings)
