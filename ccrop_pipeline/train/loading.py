"""Which loader a run uses: whatever is quickest for its images on its machine."""

from dataclasses import dataclass

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.sources import ImageIndex
from ccrop_pipeline.train.inputs import Inputs, Machine
from ccrop_pipeline.train.recipe import Recipe
from ccrop_pipeline.views import (
    Loader,
    MapLoader,
    MapViews,
    ResidentLoader,
    StreamLoader,
    ViewCutter,
    ViewGroup,
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


def open_loader(inputs: Inputs, recipe: Recipe, machine: Machine) -> Loading:
    """Chooses and opens a loader.

    Images that can be decoded into the memory allowed stay on the device; other sources are read
    by random access, and those that do not offer it in a stream.

    Raises:
        CcropError: When there are fewer images than a batch has, or the source is damaged.
    """
    cutter = ViewCutter(view_groups(recipe), recipe.seed)
    if not inputs.source.random_access:
        return _stream(inputs, recipe, machine, cutter)
    index = inputs.source.index()
    _expect_a_batch(len(index), inputs, recipe)
    canvas = canvas_within(index, round(machine.resident_gb * 1e9), machine.device)
    if canvas:
        images = load_images(index, canvas, machine.device, machine.threads)
        resident = ResidentLoader(images, cutter, recipe.batch_size, inputs.missing_boxes)
        gigabytes = images.pixels.nbytes / 1e9
        note = (
            f"{len(index):,} images lie decoded in the memory of {machine.device} "
            f"({gigabytes:.2f} GB of {machine.resident_gb:g} allowed)"
        )
        return Loading(resident, len(index), index, note)
    loader = MapLoader(
        MapViews(index, cutter),
        recipe.batch_size,
        machine.workers,
        pin_memory=machine.device.type == "cuda",
        missing=inputs.missing_boxes,
    )
    note = f"{len(index):,} images are read by position, in {_processes(machine)}"
    return Loading(loader, len(index), index, note)


def view_groups(recipe: Recipe) -> tuple[ViewGroup, ...]:
    """The views that the recipe's method trains on."""
    return (ViewGroup(2, recipe.image_size, recipe.crop, recipe.augment),)


def _stream(inputs: Inputs, recipe: Recipe, machine: Machine, cutter: ViewCutter) -> Loading:
    # A box set knows how many images there are; else they must be counted, by reading them.
    images = (
        BoxSet.open(inputs.boxes).manifest.rows
        if inputs.boxes and inputs.missing_boxes == "error"
        else sum(1 for shard in inputs.source.shards for _ in inputs.source.read(shard))
    )
    _expect_a_batch(images, inputs, recipe)
    loader = StreamLoader(
        inputs.source,
        cutter,
        recipe.batch_size,
        images,
        machine.workers,
        pin_memory=machine.device.type == "cuda",
        missing=inputs.missing_boxes,
    )
    note = f"{images:,} images are read shard by shard, in {_processes(machine)}"
    return Loading(loader, images, None, note)


def _expect_a_batch(images: int, inputs: Inputs, recipe: Recipe) -> None:
    if images < recipe.batch_size:
        raise CcropError(
            f"{inputs.source.location} has {images} images, less than one batch of "
            f"{recipe.batch_size}. Lower batch_size"
        )


def _processes(machine: Machine) -> str:
    return f"{machine.workers} processes" if machine.workers else "the training process"
