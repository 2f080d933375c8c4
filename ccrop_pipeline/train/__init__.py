"""Training: a recipe, the plan that follows from it, and one driver that executes the plan."""

from ccrop_pipeline.train.checkpoint import Checkpoint, StartingWeights, load_checkpoint
from ccrop_pipeline.train.driver import Trainer
from ccrop_pipeline.train.follow import FollowObserver, follow
from ccrop_pipeline.train.inputs import Inputs, Machine
from ccrop_pipeline.train.metrics import Metrics
from ccrop_pipeline.train.observer import Observer, StepReport
from ccrop_pipeline.train.processes import Started
from ccrop_pipeline.train.run import Run

__all__ = [
    "Checkpoint",
    "FollowObserver",
    "Inputs",
    "Machine",
    "Metrics",
    "Observer",
    "Run",
    "Started",
    "StartingWeights",
    "StepReport",
    "Trainer",
    "follow",
    "load_checkpoint",
]
