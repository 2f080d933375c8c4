"""Training: a recipe, the plan that follows from it, and one driver that executes the plan."""

from ccrop_pipeline.training.checkpoint import Checkpoint, StartingWeights, load_checkpoint
from ccrop_pipeline.training.driver import Trainer, train
from ccrop_pipeline.training.inputs import Inputs, Machine
from ccrop_pipeline.training.metrics import Metrics
from ccrop_pipeline.training.refresh import follow
from ccrop_pipeline.training.run import Run

__all__ = [
    "Checkpoint",
    "Inputs",
    "Machine",
    "Metrics",
    "Run",
    "StartingWeights",
    "Trainer",
    "follow",
    "load_checkpoint",
    "train",
]
