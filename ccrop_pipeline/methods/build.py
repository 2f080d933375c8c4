"""Methods by name."""

from difflib import get_close_matches

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import build_backbone
from ccrop_pipeline.methods.barlowtwins import BarlowTwins
from ccrop_pipeline.methods.byol import BYOL
from ccrop_pipeline.methods.dino import DINO
from ccrop_pipeline.methods.method import Method, MethodSettings
from ccrop_pipeline.methods.moco import MoCoV1, MoCoV2
from ccrop_pipeline.methods.mocov3 import MoCoV3
from ccrop_pipeline.methods.simclr import SimCLR
from ccrop_pipeline.methods.simsiam import SimSiam
from ccrop_pipeline.methods.vicreg import VICReg

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


def settings_type(name: str) -> type[MethodSettings]:
    """The class of a method's settings; its defaults are the paper's.

    Raises:
        CcropError: There is no method of that name.
    """
    if name not in METHODS:
        close = get_close_matches(name, METHODS, n=1)
        advice = f" (did you mean {close[0]}?)" if close else ""
        raise CcropError(f"There is no method {name!r}{advice}. There are: {', '.join(METHODS)}.")
    return METHODS[name].settings_class


def build_method(settings: MethodSettings, backbone: str) -> Method:
    """Builds a method around a newly initialised backbone.

    Weights come from torch's global generator: seed it first.

    Args:
        settings: An instance of ``settings_type(settings.name)``.
        backbone: A name that `build_backbone` knows.

    Raises:
        CcropError: When the method or the backbone is unknown.
        ValueError: When the settings are another method's.
    """
    settings_type(settings.name)
    return METHODS[settings.name](build_backbone(backbone), settings)
