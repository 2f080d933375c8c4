"""Recipes: all settings that change the result of a run, their files, and the plan of a run.

Needs NumPy only, and neither torch nor lightly.
"""

from ccrop_pipeline.recipes.method_settings import METHOD_SETTINGS, MethodSettings, settings_type
from ccrop_pipeline.recipes.plan import (
    FixedStage,
    RefreshStage,
    Stage,
    TrainStage,
    advice,
    as_record,
    describe,
    fitting_batch_size,
    gentle_epochs,
    make_plan,
    shorter_schedules,
    too_few,
)
from ccrop_pipeline.recipes.recipe import Recipe
from ccrop_pipeline.recipes.recipe_files import bundled_recipes, load_recipe
from ccrop_pipeline.recipes.settings import BoxSettings, KnnSettings, OptimizerSettings
from ccrop_pipeline.recipes.view_settings import AugmentSettings, LocalViews, ViewGroup

__all__ = [
    "METHOD_SETTINGS",
    "AugmentSettings",
    "BoxSettings",
    "FixedStage",
    "KnnSettings",
    "LocalViews",
    "MethodSettings",
    "OptimizerSettings",
    "Recipe",
    "RefreshStage",
    "Stage",
    "TrainStage",
    "ViewGroup",
    "advice",
    "as_record",
    "bundled_recipes",
    "describe",
    "fitting_batch_size",
    "gentle_epochs",
    "load_recipe",
    "make_plan",
    "settings_type",
    "shorter_schedules",
    "too_few",
]
