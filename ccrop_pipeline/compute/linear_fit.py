"""A linear head from boxes or masks: which cells belong to objects, and their features."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.base import SILENT, Observer
from ccrop_pipeline.boxset import OK, BoxSet, BoxTable
from ccrop_pipeline.boxset.reader import Boxes, opened
from ccrop_pipeline.boxset.rejoined import images_of
from ccrop_pipeline.compute.box_sets import default_batch_size, default_threads
from ccrop_pipeline.errors import BoxSetError, CcropError, SettingError
from ccrop_pipeline.images import Source
from ccrop_pipeline.images.squares import resized_images
from ccrop_pipeline.localize import CellSource, Encoder, LinearHead
from ccrop_pipeline.localize.discovery import cells_of
from ccrop_pipeline.localize.linear_head import fit_head

Target = Literal["boxes", "heatmaps"]
_MOST_CELLS = 1 << 18  # 400 MB of keys of 384 channels


@dataclass(frozen=True)
class Fitted:
    """A head, and what it was fitted to.

    Attributes:
        head: The head.
        images: Number of images.
        cells: Number of cells.
        objects: Share of the cells that belongs to objects.
        agreement: Share of the cells on the side of 0.5 that their target is on.
        base_rate: What the same would be, were all cells put on the side of the most.
    """

    head: LinearHead
    images: int
    cells: int
    objects: float
    agreement: float
    base_rate: float


def fit_linear(
    boxes: Boxes,
    source: Source,
    encoder: Encoder,
    *,
    target: Target = "boxes",
    on: CellSource | None = None,
    images: int = 1000,
    observer: Observer = SILENT,
) -> Fitted:
    """Fit a linear head that tells the cells of objects from the others.

    Images whose row has the status `ok` are taken from shards spread over the box set. The target
    of a cell is the share of it that lies in a box, or above 0.5 in the stored heatmap.

    Args:
        boxes: A box set, or its folder.
        source: Its images.
        encoder: What the head is for.
        target: `boxes`, all choices of an image where it has some, or the stored `heatmaps`.
        on: What the head takes; None: keys where they can be read, else the layer.
        images: The most images.
        observer: Hears how it goes.

    Raises:
        CcropError: If the source has other images, none has a box, or all cells are alike.
        BoxSetError: If heatmaps are asked for, and there are none.
        SettingError: If `images` is below 1.
    """
    if images < 1:
        raise SettingError(f"images is {images}; it must be 1 or more.")
    box_set = opened(boxes)
    on = on or ("keys" if encoder.has_attention else "layer")
    drawn = list(_drawn(box_set, images_of(box_set, source), images))
    if not drawn:
        raise CcropError(f"no image in {box_set.folder} has a box to learn from (status ok).")
    batches = resized_images(
        (image for image, _, _ in drawn),
        encoder.input_size,
        batch_size=default_batch_size(encoder),
        threads=default_threads(encoder),
        device=torch.device(encoder.device).type,
    )
    values, targets, at = list[Tensor](), list[Tensor](), 0
    for batch in batches:
        cells, grid = cells_of(encoder, torch.from_numpy(batch.pixels), on)
        every = max(1, -(-len(drawn) * cells.shape[1] // _MOST_CELLS))
        for row in np.flatnonzero(batch.readable).tolist():
            number = at + row
            _, table, place = drawn[number]
            share = _in_heatmap(table, place, grid, box_set) if target == "heatmaps" else None
            share = _in_boxes(_boxes_of(table, place), grid) if share is None else share
            kept = slice(number % every, None, every)
            values.append(cells[row, kept].cpu())
            targets.append(torch.from_numpy(share.reshape(-1)[kept].astype(np.float32)))
        at += len(batch.pixels)
        observer.images_done(len(batch.pixels), "")
    joined, wanted = torch.cat(values), torch.cat(targets)
    head = fit_head(joined, wanted, on)
    heat = head.heatmaps(joined[None], (1, len(joined)))
    inside = wanted > 0.5
    right, above, objects = (
        float(each.double().mean()) for each in ((heat[0, 0] > 0.5) == inside, inside, wanted)
    )
    return Fitted(head, len(values), len(joined), objects, right, max(above, 1 - above))


def _drawn(box_set: BoxSet, source: Source, wanted: int) -> Iterator[tuple[bytes, BoxTable, int]]:
    """Yield encoded images with their table and row, from shards spread over the box set."""
    rows = {entry.name: entry.rows for entry in box_set.manifest.shards if entry.rows}
    if missing := [name for name in rows if name not in source.shards]:
        raise CcropError(
            f"{box_set.folder} has boxes for the shard {missing[0]!r}, which {source.location} "
            "has not. Give the images that the boxes were made for."
        )
    # As many shards as hold twice the images that are wanted, at least eight.
    count = min(len(rows), max(8, -(-2 * wanted * len(rows) // max(1, sum(rows.values())))))
    names = [*rows]
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, count).astype(int))]
    ends = np.cumsum([rows[name] for name in chosen])
    quotas = np.diff(min(wanted, int(ends[-1])) * ends // ends[-1], prepend=0).tolist()
    for name, quota in zip(chosen, quotas, strict=True):
        table = box_set.read(name)
        places = np.flatnonzero(table.status == OK)
        spread = np.linspace(0, len(places) - 1, min(quota, len(places)))
        picked = set(places[np.unique(spread.astype(int))].tolist()) if len(places) else set()
        samples = islice(source.read(name), max(picked, default=-1) + 1)
        for place, sample in enumerate(samples):
            if place >= len(table) or sample.key != table.keys[place]:
                raise CcropError(
                    f"the images of the shard {name!r} in {source.location} are not those of "
                    f"{box_set.folder}. Give the images that the boxes were made for."
                )
            if place in picked:
                yield sample.image, table, place


def _boxes_of(table: BoxTable, place: int) -> NDArray[np.float32]:
    if table.choices is None:
        return table.boxes[place : place + 1]
    return table.choices.of_row(place)


def _in_boxes(boxes: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return the share of each cell that lies in the box that holds the most of it."""
    shares = np.zeros(grid)
    for x0, y0, x1, y1 in boxes.astype(np.float64):
        across = _overlap(x0, x1, grid[1])
        down = _overlap(y0, y1, grid[0])
        shares = np.maximum(shares, down[:, None] * across)
    return shares


def _overlap(low: float, high: float, cells: int) -> NDArray[np.float64]:
    """Return the share of each of `cells` equal parts of [0, 1] between `low` and `high`."""
    edges = np.arange(cells + 1)
    inside = np.minimum(high * cells, edges[1:]) - np.maximum(low * cells, edges[:-1])
    shares: NDArray[np.float64] = inside.clip(0, 1)
    return shares


def _in_heatmap(
    table: BoxTable, place: int, grid: tuple[int, int], box_set: BoxSet
) -> NDArray[np.float64]:
    """Return the share of each cell where the stored heatmap is above 0.5, on another grid."""
    if table.heatmaps is None:
        raise BoxSetError(
            f"the box set {box_set.folder} was written without heatmaps. Fit to its boxes, or "
            "compute it with heatmaps."
        )
    heat = table.heatmaps[place] > 0.5
    down, across = (
        np.stack([_overlap(i / old, (i + 1) / old, new) for i in range(old)])
        for old, new in zip(heat.shape, grid, strict=True)
    )
    shares: NDArray[np.float64] = down.T @ heat.astype(np.float64) @ across
    return shares
