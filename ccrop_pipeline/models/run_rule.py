"""The box rule that a run of ours was trained with."""

from pathlib import Path

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import BoxRule
from ccrop_pipeline.models.reading import kind_of_file
from ccrop_pipeline.train import load_checkpoint


def rule_of_run(spec: str) -> BoxRule | None:
    """The rule of the recipe of a run or checkpoint of ours; None for any other model."""
    path = Path(spec)
    if not path.exists() or (path.is_file() and kind_of_file(path) != "pickle"):
        return None
    try:
        return BoxRule(load_checkpoint(path).recipe.boxes.threshold)
    except CcropError:  # another's checkpoint
        return None
