"""Boxes of a source from an encoder: one data shard in, one box shard out.

A shard that is complete is never computed again, so a run that was killed is taken up by
running it again; and any number of processes may work on one box set, each on its own portion.
"""

import shutil
from importlib.metadata import version
from pathlib import Path

from ccrop_pipeline.base import ALONE, ComputeObserver, Location, Ranks, is_address
from ccrop_pipeline.boxset import (
    FORMS,
    BoxSet,
    Provenance,
    SourceInfo,
    missing_shards,
    shard_is_complete,
    write_manifest,
)
from ccrop_pipeline.compute.pipeline import compute_shards
from ccrop_pipeline.compute.settings import ComputeSettings
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Source
from ccrop_pipeline.localize import Localizer

_SILENT = ComputeObserver()


def compute_boxes(
    source: Source,
    localizer: Localizer,
    folder: Location,
    settings: ComputeSettings,
    observer: ComputeObserver = _SILENT,
    overwrite: bool = False,
    ranks: Ranks = ALONE,
) -> BoxSet | None:
    """Computes the box of every image of a source, or of one portion of it, and writes a box set.

    Args:
        source: Images.
        localizer: Encoder, heatmap and rule.
        folder: Where the box set goes, a path or an address that fsspec knows. Complete shards
            of the same encoder, settings and source that already lie there are kept.
        settings: Batch size, threads, form, how much may be unreadable.
        observer: Hears how it goes.
        overwrite: Whether to delete a box set that lies in `folder`.
        ranks: Who this process is, which says its portion of the shards. Processes need not
            know of each other: the one that finds all shards there writes the manifest.

    Returns:
        The box set, or None while shards of other processes are missing.

    Raises:
        CcropError: `folder` holds boxes of something else, or the source cannot be read, names
            two images with one key or has too many unreadable images.
    """
    if overwrite:
        _remove_box_set(folder, ranks)
    provenance = provenance_of(source, localizer)
    mine = ranks.portion(source.shards)
    todo = [
        shard for shard in mine if not shard_is_complete(folder, shard, provenance, settings.form)
    ]
    observer.begun(len(todo), len(mine) - len(todo))
    compute_shards(source, todo, localizer, folder, provenance, settings, observer)
    if missing_shards(folder, source.shards, settings.form):
        return None
    write_manifest(folder, source.shards, provenance, settings.form)
    return BoxSet.open(folder)


def provenance_of(source: Source, localizer: Localizer) -> Provenance:
    """What a box set of these records about its making."""
    return Provenance(
        encoder=localizer.encoder.info,
        localizer=localizer.info,
        source=SourceInfo(source.kind, source.fingerprint()),
        libraries={
            name: version(name) for name in ("ccrop-pipeline", "torch", "torchvision", "pillow")
        },
    )


def _remove_box_set(folder: Location, ranks: Ranks) -> None:
    """Deletes a box set, whole or unfinished, and refuses to delete anything else."""
    if ranks.world_size > 1:
        raise CcropError(
            "--overwrite is for a process alone: of several, the last to start would delete what "
            f"the others have done. Delete {folder} first"
        )
    if is_address(folder):
        raise CcropError(f"--overwrite is for local folders only. Delete {folder} first")
    folder = Path(folder)
    if not folder.exists():
        return
    known = ("manifest.json", *(form.suffix for form in FORMS.values()))
    strangers = [
        e.name
        for e in folder.iterdir()
        if not e.name.startswith(".") and not e.name.endswith(known)
    ]
    if strangers:
        raise CcropError(
            f"{folder} holds more than a box set, such as {strangers[0]!r}: it was not deleted. "
            "Choose another folder"
        )
    shutil.rmtree(folder)
