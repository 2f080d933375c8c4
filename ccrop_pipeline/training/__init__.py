"""Training: a recipe, the plan that follows from it, and one driver that executes the plan.

`run` and `metrics` are read without torch, which comes in at first use of the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccrop_pipeline.training.checkpoint import (
        Checkpoint,
        PretrainedEncoder,
        StartingWeights,
        load_checkpoint,
    )
    from ccrop_pipeline.training.driver import Trainer
    from ccrop_pipeline.training.inputs import Inputs, Machine
    from ccrop_pipeline.training.metrics import Metrics
    from ccrop_pipeline.training.refresh import follow
    from ccrop_pipeline.training.run import Run
    from ccrop_pipeline.training.starting import train

__all__ = [
    "Checkpoint",
    "Inputs",
    "Machine",
    "Metrics",
    "PretrainedEncoder",
    "Run",
    "StartingWeights",
    "Trainer",
    "follow",
    "load_checkpoint",
    "train",
]

_FILES = {
    "Checkpoint": "checkpoint",
    "Inputs": "inputs",
    "Machine": "inputs",
    "Metrics": "metrics",
    "PretrainedEncoder": "checkpoint",
    "Run": "run",
    "StartingWeights": "checkpoint",
    "Trainer": "driver",
    "follow": "refresh",
    "load_checkpoint": "checkpoint",
    "train": "starting",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
