"""Box sets of a run: computed from its checkpoints, and found again."""

import re
from pathlib import Path

import torch

from ccrop_pipeline.base import Observer, Ranks
from ccrop_pipeline.boxset import BoxSet, missing_shards
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.images import Source
from ccrop_pipeline.localize import BoxRule, Localizer
from ccrop_pipeline.recipes.plan import box_folder, checkpoint_file
from ccrop_pipeline.training.checkpoint import load_checkpoint

_NUMBERED = re.compile(r"epoch-(\d+)(\.pt)?")


def refresh_boxes(
    run: Path,
    epoch: int,
    source: Source,
    device: torch.device,
    threads: int,
    observer: Observer,
    ranks: Ranks,
) -> BoxSet | None:
    """Compute the boxes of a source, or of a portion of it, from the checkpoint of an epoch.

    Every process reads the same file, so that all use the same weights and statistics.

    Args:
        run: Folder of the run.
        epoch: Epochs that the checkpoint has been trained for.
        source: Images of the run.
        device: Where the encoder runs.
        threads: Decoding threads.
        observer: Hears how it goes.
        ranks: Who this process is.

    Returns:
        The box set, or None while shards of other processes are missing.
    """
    checkpoint = load_checkpoint(run / checkpoint_file(epoch))
    settings = checkpoint.recipe.boxes
    encoder = checkpoint.encoder(device, settings.refresh_from)
    return compute_boxes(
        source,
        Localizer(encoder, "sum", BoxRule(settings.threshold)),
        run / box_folder(epoch),
        threads=threads,
        ranks=ranks,
        observer=observer,
    )


def newest_boxes(run: Path, latest: int | None = None) -> int | None:
    """Return the epoch of the newest complete box set of the run; None if there is none.

    Args:
        run: Folder of the run.
        latest: Boxes of later epochs are passed over; None: none are.
    """
    complete = [
        epoch
        for epoch, path in _numbered(run / box_folder(0)).items()
        if (latest is None or epoch <= latest) and (path / "manifest.json").is_file()
    ]
    return max(complete, default=None)


def due_boxes(run: Path) -> int | None:
    """Return the epoch of the boxes that are to be computed next; None: nothing is to be done.

    Told by what lies on disk alone, so that all who share the work agree: a set that somebody
    has begun goes before the newest checkpoint, and nothing is older than the newest complete set.
    """
    complete = newest_boxes(run) or 0
    left = {epoch for epoch in _numbered(run / checkpoint_file(0)) if epoch > complete}
    begun = left.intersection(_numbered(run / box_folder(0)))
    return max(begun or left, default=None)


def left_to_others(run: Path, epoch: int, source: Source, ranks: Ranks) -> bool:
    """Tell whether a box set lacks shards, and none of them is of this portion."""
    missing = {*missing_shards(run / box_folder(epoch), source.shards)}
    return bool(missing) and missing.isdisjoint(ranks.portion(source.shards))


def _numbered(example: Path) -> dict[int, Path]:
    folder = example.parent
    paths = folder.iterdir() if folder.is_dir() else ()
    return {int(found[1]): path for path in paths if (found := _NUMBERED.fullmatch(path.name))}
