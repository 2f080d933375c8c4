"""ContrastiveCrop as a pipeline: boxes computed offline, kept in files, cut into views.

    import ccrop_pipeline as ccrop

    source = ccrop.open_source("data/photos")
    loader = ccrop.ViewLoader(source, ccrop.ViewGroup(2, 224), boxes="boxes/first", batch_size=64)

Each name is imported when it is first used: importing this module imports nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ccrop_pipeline.adapters import BoxedDataset, BoxedViews, add_boxes
    from ccrop_pipeline.boxset import BoxSet, validate
    from ccrop_pipeline.compute import compute_boxes
    from ccrop_pipeline.compute.rethreshold import rethreshold
    from ccrop_pipeline.crops import ContrastiveCrop, attach_box
    from ccrop_pipeline.errors import CcropError
    from ccrop_pipeline.exchange import import_boxes
    from ccrop_pipeline.export import embed
    from ccrop_pipeline.images import open_source, pack
    from ccrop_pipeline.localize import BoxRule, Localizer
    from ccrop_pipeline.models import open_encoder
    from ccrop_pipeline.recipes import AugmentSettings, ViewGroup, load_recipe
    from ccrop_pipeline.report import audit, report_boxes, report_run
    from ccrop_pipeline.training import train
    from ccrop_pipeline.views import ViewLoader

__version__ = "1.0.0rc1"

__all__ = [
    "AugmentSettings",
    "BoxRule",
    "BoxSet",
    "BoxedDataset",
    "BoxedViews",
    "CcropError",
    "ContrastiveCrop",
    "Localizer",
    "ViewGroup",
    "ViewLoader",
    "add_boxes",
    "attach_box",
    "audit",
    "compute_boxes",
    "embed",
    "import_boxes",
    "load_recipe",
    "open_encoder",
    "open_source",
    "pack",
    "report_boxes",
    "report_run",
    "rethreshold",
    "train",
    "validate",
]

_MODULES: Final = {
    "AugmentSettings": "recipes",
    "BoxRule": "localize",
    "BoxSet": "boxset",
    "BoxedDataset": "adapters",
    "BoxedViews": "adapters",
    "CcropError": "errors",
    "ContrastiveCrop": "crops",
    "Localizer": "localize",
    "ViewGroup": "recipes",
    "ViewLoader": "views",
    "add_boxes": "adapters",
    "attach_box": "crops",
    "audit": "report",
    "compute_boxes": "compute",
    "embed": "export",
    "import_boxes": "exchange",
    "load_recipe": "recipes",
    "open_encoder": "models",
    "open_source": "images",
    "pack": "images",
    "report_boxes": "report",
    "report_run": "report",
    "rethreshold": "compute.rethreshold",
    "train": "training",
    "validate": "boxset",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
