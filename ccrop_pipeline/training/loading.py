"""Which loader a run uses: whatever is quickest for its images on its machine."""

from dataclasses import dataclass

from ccrop_pipeline.base import ALONE, Ranks
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import ImageIndex
from ccrop_pipeline.recipes import Recipe
from ccrop_pipeline.training.inputs import Inputs, Machine
from ccrop_pipeline.views import (
    Loader,
    MapLoader,
    MapViews,
    ResidentLoader,
    StreamLoader,
    ViewCutter,
    canvas_within,
    load_images,
)


@dataclass(frozen=True)
class Loading:
    """How the images of a run reach it.

    Attributes:
        loader: Batches of views.
        images: Number of images of the source.
        index: Images by position; None where the source can only be read in order.
        note: What was chosen, in a line for people.
    """

    loader: Loader
    images: int
    index: ImageIndex | None
    note: str


def open_loader(inputs: Inputs, recipe: Recipe, machine: Machine, ranks: Ranks = ALONE) -> Loading:
    """Choose and open a loader.

    Images that can be decoded into the memory allowed stay on the device; other sources are read
    by random access, and those that do not offer it in a stream. A batch of the loader is a part
    of a step where the recipe accumulates; of several processes each has its portion of it.

    Raises:
        CcropError: If there are fewer images than a batch has, a process would have fewer than
            two of a part or none of a whole step, or the source is damaged.
    """
    _expect_two_images(recipe, ranks.world_size)
    cutter = ViewCutter(recipe.view_groups(), recipe.seed)
    if not inputs.source.random_access:
        return _stream(inputs, recipe, machine, cutter, ranks)
    index = inputs.source.index()
    _expect_a_batch(len(index), inputs, recipe.batch_size)
    canvas = canvas_within(index, round(machine.resident_gb * 1e9), machine.device)
    batch_size = recipe.batch_size // recipe.accumulate
    place = {"rank": ranks.rank, "world_size": ranks.world_size}
    if canvas:
        images = load_images(index, canvas, machine.device, machine.threads)
        missing = inputs.missing_boxes
        resident = ResidentLoader(images, cutter, batch_size, missing, **place)
        gigabytes = images.pixels.nbytes / 1e9
        note = (
            f"{len(index):,} images lie decoded in the memory of {machine.device} "
            f"({gigabytes:.2f} GB of {machine.resident_gb:g} allowed)"
        )
        return Loading(resident, len(index), index, note)
    loader = MapLoader(
        MapViews(index, cutter),
        batch_size,
        machine.workers,
        pin_memory=machine.device.type == "cuda",
        missing=inputs.missing_boxes,
        **place,
    )
    note = f"{len(index):,} images are read by position, in {_processes(machine)}"
    return Loading(loader, len(index), index, note)


def _stream(
    inputs: Inputs, recipe: Recipe, machine: Machine, cutter: ViewCutter, ranks: Ranks
) -> Loading:
    counts = _images_by_shard(inputs)
    # Which shards a process has changes with the epoch: what the smallest of them hold, every
    # process has in every epoch, and so all end together.
    least = sum(sorted(counts)[: len(counts) // ranks.world_size])
    batch_size = recipe.batch_size // recipe.accumulate // ranks.world_size
    loader = StreamLoader(
        inputs.source,
        cutter,
        batch_size,
        least,
        machine.workers,
        ranks.rank,
        ranks.world_size,
        pin_memory=machine.device.type == "cuda",
        missing=inputs.missing_boxes,
    )
    _expect_a_batch(least, inputs, batch_size * recipe.accumulate, ranks.world_size)
    note = f"{sum(counts):,} images are read shard by shard, in {_processes(machine)}"
    return Loading(loader, sum(counts), None, note)


def _images_by_shard(inputs: Inputs) -> list[int]:
    # A box set knows how many images there are; else they must be counted, by reading them.
    if inputs.boxes and inputs.missing_boxes == "error":
        return [shard.rows for shard in BoxSet.open(inputs.boxes).manifest.shards]
    return [sum(1 for _ in inputs.source.read(shard)) for shard in inputs.source.shards]


def _expect_two_images(recipe: Recipe, processes: int) -> None:
    # Of one image there is no spread: it would look like a collapse.
    own = recipe.batch_size // recipe.accumulate // processes
    if own < 2:
        raise CcropError(
            f"batch_size is {recipe.batch_size} and accumulate {recipe.accumulate}: each of "
            f"{processes} processes would compute parts of {own} images, and needs 2 or more. "
            f"Set batch_size to {2 * recipe.accumulate * processes} or more, lower accumulate, "
            "or start fewer processes."
        )


def _expect_a_batch(images: int, inputs: Inputs, batch_size: int, processes: int = 1) -> None:
    if images >= batch_size:
        return
    location = inputs.source.location
    if processes == 1:
        raise CcropError(
            f"{location} has {images} images, less than one batch of {batch_size}. Lower "
            "batch_size."
        )
    raise CcropError(
        f"of the shards of {location}, one of {processes} processes may have no more than "
        f"{images} images, less than its {batch_size} of a batch. Lower batch_size, start fewer "
        "processes, or pack the images into more shards of equal size."
    )


def _processes(machine: Machine) -> str:
    return f"{machine.workers} processes" if machine.workers else "the training process"
