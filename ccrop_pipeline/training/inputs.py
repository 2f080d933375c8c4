"""What a run is made from, the machine it runs on, and how its images reach it."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch

from ccrop_pipeline.base import ALONE, Location, Ranks
from ccrop_pipeline.boxset import MissingBoxes, opened
from ccrop_pipeline.errors import SettingError, counted
from ccrop_pipeline.images import ImageIndex, Source
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.probes import (
    LabelledImages,
    all_vote,
    at_most,
    bank_and_queries,
    chance_accuracy,
    embed,
    knn_accuracy,
    several_classes,
)
from ccrop_pipeline.recipes import KnnSettings, Recipe
from ccrop_pipeline.training.checkpoint import PretrainedEncoder, StartingWeights
from ccrop_pipeline.views import ViewLoader
from ccrop_pipeline.views.loader import rows_by_shard


@dataclass(frozen=True)
class Inputs:
    """What a run is made from.

    Attributes:
        source: Images to train on.
        boxes: A box set to use from the first epoch on, without warm-up: a path or an address.
        missing_boxes: What to do with an image that has no box.
        test_source: Labelled images that the probe asks about; None: about a sixth of `source`.
        weights: What the weights start from; None: fresh random ones.
        spec: What opens the source again, from any folder; None: its location.
    """

    source: Source
    _: KW_ONLY
    boxes: Location | None = None
    missing_boxes: MissingBoxes = "error"
    test_source: Source | None = None
    weights: StartingWeights | PretrainedEncoder | None = None
    spec: str | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What differs from machine to machine and is no setting of the recipe.

    Attributes:
        device: Where the method trains; of several GPUs each process takes its own.
        workers: Loader processes; 0 loads in the training process.
        threads: Images decoded at a time in refreshes and probes, see `compute_boxes`.
        resident_gb: Images are kept decoded on the device when they need no more than this
            many gigabytes (1e9 bytes); 0: never.
        compile: Whether encoders are compiled with `torch.compile`.
        grad_checkpointing: Whether steps save memory by computing the blocks of the encoder twice.
        log: Loggers that metrics also go to, of `loggers.LOGGERS`.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = 0
    threads: int = 2
    resident_gb: float = 4.0
    compile: bool = False
    grad_checkpointing: bool = False
    log: tuple[str, ...] = ()


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
    if not source.random_access:
        if inputs.boxes and inputs.missing_boxes == "error":
            sizes = rows_by_shard(opened(inputs.boxes), source)
        if sizes is None:
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
        raise SettingError(
            f"an epoch has {len(loader)} of the {recipe.accumulate} parts (accumulate) of one "
            "step. Lower batch_size or accumulate."
        )
    return loader


def _expect_two_images(recipe: Recipe, processes: int) -> None:
    # Of one image there is no spread: it would look like a collapse.
    own = recipe.batch_size // recipe.accumulate // processes
    if own < 2:
        raise SettingError(
            f"batch_size is {recipe.batch_size} and accumulate {recipe.accumulate}: with "
            f"{counted(processes, 'process')}, each would compute parts of "
            f"{counted(own, 'image')}, and needs 2 or more. "
            f"Set batch_size to {2 * recipe.accumulate * processes} or more, lower accumulate, "
            "or start fewer processes."
        )


@dataclass(frozen=True)
class Probe:
    """What a run is probed on.

    Attributes:
        bank: Images that answer.
        queries: Images that ask.
        settings: Of the recipe.
    """

    bank: LabelledImages
    queries: LabelledImages
    settings: KnnSettings

    def due(self, epoch: int, epochs: int) -> bool:
        """Tell whether a run of so many epochs is probed after this one, the first being 1."""
        return epoch == epochs or epoch % self.settings.every == 0

    def note(self) -> str | None:
        """Return a warning where fewer images answer than were to vote."""
        return all_vote("probe.k", self.settings.k, len(self.bank.rows))

    def record(self, encoder: Encoder, threads: int) -> tuple[dict[str, Any], list[str]]:
        """Return the accuracy and what it depends on, and the images that cannot be decoded.

        Args:
            encoder: What is probed; similarities are computed on its device.
            threads: Images decoded at a time, see `compute_boxes`.

        Raises:
            CcropError: If no image can be read.
        """
        bank, queries = (
            embed(part, encoder, threads=threads) for part in (self.bank, self.queries)
        )
        record = {
            "knn": round(knn_accuracy(bank, queries, self.settings, encoder.device), 5),
            "knn_chance": round(chance_accuracy(queries), 5),
            "knn_k": self.settings.neighbours(len(bank.labels)),
            "knn_temperature": self.settings.temperature,
            "knn_bank": len(bank.labels),
            "knn_queries": len(queries.labels),
            "knn_input_size": encoder.input_size,
        }
        return record, [*bank.problems, *queries.problems]


def open_probe(inputs: Inputs, index: ImageIndex | None, settings: KnnSettings) -> Probe | None:
    """Find what a run can be probed on.

    Args:
        inputs: Images of the run, and those of the test if there are any.
        index: Images of the run by position; None where they can only be read in order.
        settings: Of the recipe.

    Returns:
        The probe; None where the recipe wants none or the images of the run have no labels, or one.

    Raises:
        CcropError: If the images of the test have no labels or other classes, or too few images
            have labels for a sixth of them to be held out.
    """
    if not settings.every or index is None:
        return None
    if inputs.test_source is None and not several_classes(index):
        return None
    parts = bank_and_queries(inputs.source, index, inputs.test_source)
    bank, queries = (at_most(part, settings.max_images) for part in parts)
    return Probe(bank, queries, settings)
