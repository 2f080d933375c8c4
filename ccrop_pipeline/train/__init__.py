"""Training: a recipe, the plan that follows from it, and one driver that executes the plan."""

from ccrop_pipeline.train.checkpoint import Checkpoint, load_checkpoint
from ccrop_pipeline.train.driver import Trainer
from ccrop_pipeline.train.follow import FollowObserver, follow
from ccrop_pipeline.train.inputs import Inputs, Machine
from ccrop_pipeline.train.metrics import Metrics
from ccrop_pipeline.train.observer import Observer, StepReport
from ccrop_pipeline.train.plan import (
    FixedStage,
    RefreshStage,
    Stage,
    TrainStage,
    describe,
    make_plan,
)
from ccrop_pipeline.train.processes import Started
from ccrop_pipeline.train.recipe import Recipe
from ccrop_pipeline.train.recipe_files import bundled_recipes, load_recipe
from ccrop_pipeline.train.run import Run
from ccrop_pipeline.train.starting import StartingWeights

__all__ = [
    "Checkpoint",
    "FixedStage",
    "FollowObserver",
    "Inputs",
    "Machine",
    "Metrics",
    "Observer",
    "Recipe",
    "RefreshStage",
    "Run",
    "Stage",
    "Started",
    "StartingWeights",
    "StepReport",
    "TrainStage",
    "Trainer",
    "bundled_recipes",
    "describe",
    "follow",
    "load_checkpoint",
    "load_recipe",
    "make_plan",
]
