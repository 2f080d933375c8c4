"""Methods by name."""

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import build_backbone
from ccrop_pipeline.methods.method import Method, MethodSettings
from ccrop_pipeline.methods.mocov2 import MoCoV2
from ccrop_pipeline.methods.simclr import SimCLR

METHODS = {"mocov2": MoCoV2, "simclr": SimCLR}


def build_method(settings: MethodSettings, backbone: str) -> Method:
    """Builds a method around a newly initialised backbone.

    Weights come from torch's global generator: seed it first.

    Args:
        settings: Name of the method, loss and momentum numbers.
        backbone: A name that `build_backbone` knows.

    Raises:
        CcropError: When the method or the backbone is unknown.
    """
    if settings.name not in METHODS:
        raise CcropError(f"unknown method {settings.name!r}; there are: {', '.join(METHODS)}")
    return METHODS[settings.name](build_backbone(backbone), settings)
