"""Boxes of a source from an encoder: which shards are left to do, and when the set is complete.

A shard that is complete is never computed again, so that a run that was killed goes on when it
is started again; and any number of processes may work on one box set, each on its own portion.
"""

import math
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ccrop_pipeline.base import ALONE, SILENT, Location, Observer, Ranks
from ccrop_pipeline.boxset import (
    BoxSet,
    Provenance,
    left_to_write,
    missing_shards,
    refuse_foreign,
    strangers,
    write_manifest,
)
from ccrop_pipeline.boxset.shards import keys_in_tars
from ccrop_pipeline.compute.choice import forget, provenance_of, settle
from ccrop_pipeline.compute.locating import compute_shards
from ccrop_pipeline.compute.replacing import expect_replaceable, replaced
from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.images import Source, open_source, refuse_wrong_keys
from ccrop_pipeline.localize import Encoder, Localizer, rule_of


def compute_boxes(
    source: Source | str | Path,
    localizer: Localizer,
    folder: Location,
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    heatmaps: bool = True,
    form: str = "parquet",
    max_bad: float = 1.0,
    overwrite: bool = False,
    ranks: Ranks = ALONE,
    observer: Observer = SILENT,
) -> BoxSet | None:
    """Compute the box of every image of a source, or of one portion of it, and write a box set.

    Args:
        source: Images, or what `open_source` opens.
        localizer: Encoder, heatmap and rule. One that sets itself is set by some of the images,
            once for all processes, and stays what it is when the work is resumed.
        folder: Where the box set goes, a path or an address that fsspec knows. Complete shards
            of the same encoder, rule and source that are already there are kept.
        batch_size: Images a forward pass; None: by their pixels, see `default_batch_size`. On a
            GPU, a batch that does not fit into its memory is cut in halves.
        threads: Images decoded at a time, by processes for a GPU, else by threads; None: see
            `default_threads`.
        heatmaps: Whether heatmaps are kept beside the boxes.
        form: `parquet` or `webdataset`.
        max_bad: Greatest share of the images of a shard that may be unreadable, in [0, 1]: none
            where it is 0, else at least one image; a shard with more is not written and ends the
            computation.
        overwrite: Whether to replace a box set that is in `folder`. The new one is computed in a
            hidden folder beside it, which the same call goes on with, and takes its place when it
            is complete.
        ranks: Who this process is, which says its portion of the shards. Processes need not
            know of each other: the one that finds all shards there writes the manifest.
        observer: Hears how it goes.

    Returns:
        The box set, or None while shards of other processes are missing.

    Raises:
        CcropError: If `folder` holds boxes of something else, or the source cannot be read, names
            two images with one key or has too many unreadable images.
        SettingError: If a number is out of its range.
    """
    check_numbers(batch_size, threads, max_bad)
    source = open_source(source) if isinstance(source, str | Path) else source
    expect = partial(expect_replaceable, folder, ranks, strangers, "a box set")
    if overwrite:
        expect()
    else:
        refuse_foreign(folder)
    asked = provenance_of(source, localizer)
    effort = _Effort(
        batch_size or default_batch_size(localizer.encoder),
        threads or default_threads(localizer.encoder, ranks.local_world_size),
        heatmaps,
        form,
        max_bad,
    )
    if not overwrite:
        is_complete = _go_on(source, localizer, folder, asked, effort, ranks, observer)
        return BoxSet.open(folder) if is_complete else None
    weight = localizer.rule.centre_weight
    with replaced(folder, expect, asked.fingerprint, weight, form, heatmaps) as aside:
        _go_on(source, localizer, aside, asked, effort, ranks, observer)
    return BoxSet.open(folder)


@dataclass(frozen=True)
class _Effort:
    """How boxes are computed and kept; the arguments of `compute_boxes`."""

    batch_size: int
    threads: int
    heatmaps: bool
    form: str
    max_bad: float


def _go_on(
    source: Source,
    localizer: Localizer,
    folder: Location,
    asked: Provenance,
    effort: _Effort,
    ranks: Ranks,
    observer: Observer,
) -> bool:
    """Compute what is left of this process's portion; return whether the box set is complete."""
    form, heatmaps = effort.form, effort.heatmaps
    if missing_shards(folder, source.shards, form=form):
        refuse_wrong_keys(source)  # opens every tar, which a complete set need not wait for
        if form == "webdataset" and source.random_access and source.kind != "tar":
            keys_in_tars(source.index().keys, folder)
    provenance = settle(
        source,
        localizer,
        folder,
        asked,
        form=form,
        batch_size=effort.batch_size,
        threads=effort.threads,
        observer=observer,
    )
    assert provenance.localizer is not None
    localizer = replace(localizer, rule=rule_of(provenance.localizer))
    mine = ranks.portion(source.shards)
    todo = left_to_write(
        folder, source.shards, provenance, form=form, portion=mine, heatmaps=heatmaps
    )
    observer.begun(len(todo), len(mine) - len(todo))
    compute_shards(source, todo, localizer, folder, provenance, **vars(effort), observer=observer)
    if missing_shards(folder, source.shards, form=form):
        return False
    write_manifest(folder, source.shards, provenance, form=form)
    forget(folder, asked)
    return True


def check_numbers(batch_size: int | None, threads: int | None, max_bad: float) -> None:
    """Refuse numbers of `compute_boxes` that are out of their range.

    Raises:
        SettingError: If one is.
    """
    for name, number in (("batch_size", batch_size), ("threads", threads)):
        if number is not None and number < 1:
            raise SettingError(f"{name} is {number}; it must be 1 or more.")
    if not 0 <= max_bad <= 1:
        raise SettingError(f"max_bad is {max_bad}; it must be in [0, 1].")


def default_threads(encoder: Encoder, processes: int = 1) -> int:
    """Choose how many images are decoded at a time: all cores for a GPU, half of them beside a CPU.

    Every parallel region of a forward pass on a CPU waits for its slowest core, so each decoding
    thread beyond need costs more than it does. Processes of one machine share its cores.
    """
    cores = max(1, (os.cpu_count() or 1) // processes)
    on_cpu = torch.device(encoder.device).type == "cpu"
    return max(1, cores // 2) if on_cpu else cores


def default_batch_size(encoder: Encoder) -> int:
    """Choose the images of a batch by their pixels: a power of two.

    On a CPU about those of 32 images of 96 px, which stay in its caches (16 images at the least),
    on a GPU of 512 images of 224 px.
    """
    on_cpu = torch.device(encoder.device).type == "cpu"
    pixels, most = (32 * 96**2, 256) if on_cpu else (512 * 224**2, 4096)
    fitting = max(16, pixels // encoder.input_size**2)
    return min(most, 1 << round(math.log2(fitting)))
