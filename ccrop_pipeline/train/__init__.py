"""Training: a recipe, the plan that follows from it, and one driver that executes the plan."""

from ccrop_pipeline.train.checkpoint import Checkpoint, load_checkpoint
from ccrop_pipeline.train.driver import Trainer
from ccrop_pipeline.train.inputs import Inputs, Machine
from ccrop_pipeline.train.observer import Observer, StepReport
from ccrop_pipeline.train.plan import RefreshStage, Stage, TrainStage, describe, make_plan
from ccrop_pipeline.train.recipe import ProbeSettings, Recipe
from ccrop_pipeline.train.recipe_files import bundled_recipes, load_recipe

__all__ = [
    "Checkpoint",
    "Inputs",
    "Machine",
    "Observer",
    "ProbeSettings",
    "Recipe",
    "RefreshStage",
    "Stage",
    "StepReport",
    "TrainStage",
    "Trainer",
    "bundled_recipes",
    "describe",
    "load_checkpoint",
    "load_recipe",
    "make_plan",
]
