"""How the images of a run reach it."""

from ccrop_pipeline.base import ALONE, Ranks
from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.recipes import Recipe
from ccrop_pipeline.training.inputs import Inputs, Machine
from ccrop_pipeline.views import ViewLoader


def open_loader(
    inputs: Inputs, recipe: Recipe, machine: Machine, ranks: Ranks = ALONE
) -> ViewLoader:
    """Return the loader of a run.

    A batch of the loader is a part of a step where the recipe accumulates; of several processes
    each has its portion of it.

    Raises:
        CcropError: If there are fewer images than a batch has, a process would have fewer than
            two of a part or none of a whole step, or the source is damaged.
    """
    _expect_two_images(recipe, ranks.world_size)
    source, sizes = inputs.source, None
    if not source.random_access and not (inputs.boxes and inputs.missing_boxes == "error"):
        # All processes must end an epoch together, and nothing tells how many images there are.
        sizes = [sum(1 for _ in source.read(shard)) for shard in source.shards]
    loader = ViewLoader(
        source,
        recipe.view_groups(),
        boxes=inputs.boxes,
        batch_size=recipe.batch_size // recipe.accumulate,
        workers=machine.workers,
        device=machine.device,
        seed=recipe.seed,
        missing=inputs.missing_boxes,
        rank=ranks.rank,
        world_size=ranks.world_size,
        resident_gb=machine.resident_gb,
        threads=machine.threads,
        shard_sizes=sizes,
    )
    if len(loader) < recipe.accumulate:
        raise CcropError(
            f"an epoch has {len(loader)} of the {recipe.accumulate} parts (accumulate) of one "
            "step. Lower batch_size or accumulate."
        )
    return loader


def _expect_two_images(recipe: Recipe, processes: int) -> None:
    # Of one image there is no spread: it would look like a collapse.
    own = recipe.batch_size // recipe.accumulate // processes
    if own < 2:
        raise SettingError(
            f"batch_size is {recipe.batch_size} and accumulate {recipe.accumulate}: each of "
            f"{processes} processes would compute parts of {own} images, and needs 2 or more. "
            f"Set batch_size to {2 * recipe.accumulate * processes} or more, lower accumulate, "
            "or start fewer processes."
        )
