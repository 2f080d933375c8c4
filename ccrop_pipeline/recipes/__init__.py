"""Recipes: all settings that change the result of a run, their files, and the plan of a run."""

from ccrop_pipeline.recipes.plan import (
    FixedStage,
    RefreshStage,
    Stage,
    TrainStage,
    describe,
    make_plan,
)
from ccrop_pipeline.recipes.recipe import Recipe
from ccrop_pipeline.recipes.recipe_files import bundled_recipes, load_recipe

__all__ = [
    "FixedStage",
    "Recipe",
    "RefreshStage",
    "Stage",
    "TrainStage",
    "bundled_recipes",
    "describe",
    "load_recipe",
    "make_plan",
]
