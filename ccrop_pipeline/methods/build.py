"""Methods by name."""

from ccrop_pipeline.localize import build_backbone
from ccrop_pipeline.methods.barlowtwins import BarlowTwins
from ccrop_pipeline.methods.byol import BYOL
from ccrop_pipeline.methods.dino import DINO
from ccrop_pipeline.methods.method import Method
from ccrop_pipeline.methods.moco import MoCoV1, MoCoV2
from ccrop_pipeline.methods.mocov3 import MoCoV3
from ccrop_pipeline.methods.simclr import SimCLR
from ccrop_pipeline.methods.simsiam import SimSiam
from ccrop_pipeline.methods.vicreg import VICReg
from ccrop_pipeline.recipes import MethodSettings

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
}


def build_method(settings: MethodSettings, backbone: str) -> Method:
    """Build a method around a newly initialised backbone.

    Weights come from torch's global generator: seed it first.

    Args:
        settings: Of the type `settings_type(settings.name)`.
        backbone: A name that `build_backbone` knows.

    Raises:
        CcropError: If the backbone is unknown, or the settings are another method's.
    """
    return METHODS[settings.name](build_backbone(backbone), settings)
