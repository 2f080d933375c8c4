"""From the images of shards to shards of boxes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.base import Location, Observer
from ccrop_pipeline.boxset import (
    EMPTY,
    FULL_BOX,
    OK,
    UNREADABLE,
    BoxTable,
    Choices,
    Provenance,
    write_shard_once,
)
from ccrop_pipeline.compute.pipeline import Batch, Passes, Waiting, refuse_repeated, run_shards
from ccrop_pipeline.compute.rethreshold import with_rule
from ccrop_pipeline.errors import SourceError
from ccrop_pipeline.images import Source
from ccrop_pipeline.images.squares import ResizedImages
from ccrop_pipeline.localize import Localizer

_BOX_BYTES = 16
_COLUMNS = ("boxes", "sizes", "orientation", "status", "image_hash")
_NAMED = 3  # unreadable images in a message


def compute_shards(
    source: Source,
    shards: Sequence[str],
    localizer: Localizer,
    folder: Location,
    provenance: Provenance,
    *,
    batch_size: int,
    threads: int,
    heatmaps: bool,
    form: str,
    max_bad: float,
    observer: Observer,
) -> None:
    """Compute and write the boxes of some shards, in order.

    Args:
        source: Images.
        shards: Names of shards of the source, none of which is complete.
        localizer: Encoder, heatmap and rule.
        folder: The box set.
        provenance: What to write into every shard.
        batch_size: Images a forward pass.
        threads: Images decoded at a time, by processes for a GPU, else by threads.
        heatmaps: Whether heatmaps are kept.
        form: Form of the shards.
        max_bad: Greatest share of unreadable images.
        observer: Hears how it goes.

    Raises:
        CcropError: If the source cannot be read, repeats a key, or has too many unreadable images.
    """
    seen: dict[str, str] = {}

    def written(shard: str, parts: list[tuple[Batch, BoxTable]]) -> Callable[[], None]:
        table = _joined([table for _, table in parts], heatmaps=heatmaps)
        _refuse_unreadable(shard, table, max_bad)
        refuse_repeated(shard, table.keys, seen)

        def write() -> None:
            write_shard_once(folder, shard, table, provenance, form=form)
            observer.shard_written(shard, len(table), int((table.status == UNREADABLE).sum()))

        return write

    run_shards(
        source,
        shards,
        localizer.encoder,
        begin=Locator(localizer, observer.batch_halved).begin,
        written=written,
        batch_size=batch_size,
        threads=threads,
        observer=observer,
    )


class Locator:
    """Locates content in batch after batch.

    Args:
        localizer: Encoder, heatmap and rule.
        halved: As in `Passes`.
    """

    def __init__(self, localizer: Localizer, halved: Callable[[int], None]) -> None:
        self._localizer, self._grid = localizer, (1, 1)
        self._passes = Passes(localizer.encoder.device, self._packed, halved)

    def begin(self, batch: Batch, images: ResizedImages) -> Waiting[BoxTable]:
        """Put a batch to work; on a GPU this returns before the work is done.

        Args:
            batch: Keys and hashes of the images.
            images: Their pixels and sizes.

        Returns:
            What waits for the batch and gives its rows: the full box where nothing was found, a
            heatmap of zeros as well where the image is unreadable.

        Raises:
            CcropError: If not even one image fits into the memory of the GPU.
        """
        rows = self._passes.begin(images.pixels) if batch.keys else self._none

        def wait() -> BoxTable:
            found = rows()
            status = np.where(found[:, _BOX_BYTES].astype(bool), OK, EMPTY).astype(np.uint8)
            status[~images.readable] = UNREADABLE
            boxes = found[:, :_BOX_BYTES].copy().view(np.float32)
            boxes[status != OK] = FULL_BOX
            heatmaps = self._heatmaps(found)
            heatmaps[~images.readable] = 0
            columns = (images.sizes, images.orientation, status, np.array(batch.hashes, np.uint64))
            table = BoxTable(batch.keys, boxes, *columns, heatmaps)
            rule, size = self._localizer.rule, self._localizer.encoder.input_size
            if rule.objects == 1:
                return table
            return with_rule(table, rule, map_name=self._localizer.map, map_size=size)

        return wait

    def heatmaps(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Wait for the heatmaps `(n, h, w)` of squares, uint8 `(n, 3, size, size)`.

        Raises:
            CcropError: If not even one image fits into the memory of the GPU.
        """
        return self._heatmaps(self._passes.begin(pixels)())

    def _packed(self, pixels: Tensor) -> Tensor:
        """Return box, whether one was found, and heatmap as bytes, (n, ...)."""
        heatmaps, boxes, found = self._localizer.locate(pixels)
        self._grid = (heatmaps.shape[1], heatmaps.shape[2])
        parts = (boxes, found[:, None], heatmaps.flatten(1))
        return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=1)

    def _none(self) -> NDArray[np.uint8]:
        return np.empty((0, _BOX_BYTES + 1 + 2 * self._grid[0] * self._grid[1]), np.uint8)

    def _heatmaps(self, rows: NDArray[np.uint8]) -> NDArray[np.float16]:
        return rows[:, _BOX_BYTES + 1 :].copy().view(np.float16).reshape(-1, *self._grid)


def _joined(parts: list[BoxTable], *, heatmaps: bool) -> BoxTable:
    """Join the rows of batches to those of a shard, with heatmaps or without."""

    def joined(column: str) -> Any:
        return np.concatenate([getattr(part, column) for part in parts])

    keys = [key for part in parts for key in part.keys]
    # A shard without images has no grid.
    maps = joined("heatmaps") if heatmaps and keys else None
    several = [part.choices for part in parts if part.choices is not None]
    choices = Choices.joined(several) if several else None
    columns = {name: joined(name) for name in _COLUMNS}
    return BoxTable(keys, **columns, heatmaps=maps, choices=choices)


def _refuse_unreadable(shard: str, table: BoxTable, max_bad: float) -> None:
    bad = np.flatnonzero(table.status == UNREADABLE)
    # Rounded first: 0.58 * 50 is 28.999999999999996, and 29 of 50 images are meant.
    allowed = max(1, math.floor(round(max_bad * len(table), 6))) if max_bad else 0
    if len(bad) > allowed:
        names = ", ".join(repr(table.keys[row]) for row in bad[:_NAMED])
        raise SourceError(
            f"{len(bad)} of the {len(table)} images of the shard {shard!r} cannot be decoded, such "
            f"as {names}; at most {allowed} may be. The shard was not written: mend the images, or "
            "raise `max_bad`."
        )
