"""The images of a report: which are shown, and all that its page draws of each of them."""

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccrop_pipeline.boxset import EMPTY, OK, STATUSES, UNREADABLE, BoxSet, BoxTable, iou
from ccrop_pipeline.boxset.rejoined import expect_shared, images_of
from ccrop_pipeline.crops import (
    UNIFORMS_PER_WINDOW,
    WINDOW,
    CropParams,
    key_hash,
    sample_windows,
    uniforms,
)
from ccrop_pipeline.errors import SourceError, printable
from ccrop_pipeline.images import (
    Sample,
    Source,
    UnreadableImage,
    decode,
    image_hash,
    stored_size,
    true_boxes,
)
from ccrop_pipeline.images.source import samples_at
from ccrop_pipeline.report.drift import refresh_name
from ccrop_pipeline.report.spread import evenly

_MOST = 200  # images
_SHARDS = 8
_EXTREMES = 20  # of the smallest, of the largest and so on
_HEAT_BYTES = 1_500_000  # of all heatmaps, as text
_SIDE, _QUALITY = 192, 75  # of a picture
_LARGE, _COARSE = 12_000, 40  # bytes of one that is written again, as of noise; its quality
_VIEWS = 2


@dataclass
class Gallery:
    """What a page shows of single images.

    Attributes:
        items: For each image what the page reads of it, in source order.
        among: Number of rows in the shards that the images are from.
        shards: Number of these shards.
        other_bytes: Number of images whose bytes are not those that their box was computed from.
        absent: Number of images that the source does not have.
        grid: Height and width of the heatmaps; None without.
        earlier: What earlier box sets are called whose boxes an image has as well, the earliest
            first.
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    among: int = 0
    shards: int = 0
    other_bytes: int = 0
    absent: int = 0
    grid: tuple[int, int] | None = None
    earlier: list[str] = field(default_factory=list)


@dataclass
class _Row:
    """A row that is shown, and whether it is one of those that are evenly spread."""

    tables: list[BoxTable]  # of the newest set last; the others have the same keys
    number: int
    typical: bool
    other: NDArray[np.float32]  # not a number where there is none

    @property
    def key(self) -> str:
        return self.tables[-1].keys[self.number]


def gallery(
    box_set: BoxSet,
    source: Source,
    *,
    crop: CropParams,
    against: BoxSet | None = None,
    earlier: Sequence[BoxSet] = (),
) -> Gallery:
    """Choose up to 200 images out of up to 8 shards, and read them.

    The smallest and largest boxes of these shards, those without content or image, and those that
    differ most from the other set or the one before; all others are evenly spread.

    Args:
        box_set: Boxes, with heatmaps or without.
        source: The images they belong to.
        crop: How windows of views are drawn.
        against: Another box set over the same images.
        earlier: Box sets of earlier refreshes, the earliest first; those that have not the very
            same keys in these shards are left out.

    Raises:
        SourceError: If no shard of the source is one of the box set.
    """
    source = images_of(box_set, source)
    expect_shared(box_set, source)
    there = set(source.shards)
    names = [entry.name for entry in box_set.manifest.shards if entry.rows and entry.name in there]
    chosen = [names[at] for at in evenly(len(names), _SHARDS)]
    tables = [[box_set.read(name)] for name in chosen]
    grid = tables[0][0].heatmap_shape if tables else None
    found = Gallery(among=sum(len(of[0]) for of in tables), shards=len(chosen), grid=grid)
    for before in reversed(earlier):
        if read := _same_rows(before, chosen, tables):
            tables = [[table, *others] for table, others in zip(read, tables, strict=True)]
            found.earlier.insert(0, refresh_name(before))
    for name, rows in zip(chosen, _chosen_rows(tables, box_set, against), strict=True):
        samples = _samples(source, name, {row.key for row in rows})
        for row in rows:
            sample = samples.get(row.key)
            item = _item(row, sample, crop)
            found.absent += item.get("absent", False)
            found.other_bytes += item.get("bytes", False)
            found.items.append(item)
    return found


def _same_rows(
    box_set: BoxSet, names: list[str], tables: list[list[BoxTable]]
) -> list[BoxTable] | None:
    """Read the shards of another set; None where their rows are others than in these tables."""
    if not {*names} <= {entry.name for entry in box_set.manifest.shards}:
        return None
    read = [box_set.read(name) for name in names]
    same = all(table.keys == own[-1].keys for table, own in zip(read, tables, strict=True))
    return read if same else None


def _chosen_rows(
    tables: list[list[BoxTable]], box_set: BoxSet, against: BoxSet | None
) -> list[list[_Row]]:
    """Return the rows to show of each shard."""
    if not tables:
        return []
    newest = [of[-1] for of in tables]
    boxes = np.concatenate([table.boxes for table in newest]).astype(np.float64)
    others = [_others(table, box_set, against) for table in newest]
    most = _MOST
    if shape := newest[0].heatmap_shape:
        cells = shape[0] * shape[1] * len(tables[0])
        most = max(20, min(most, _HEAT_BYTES * 3 // (cells * 8)))
    special: set[int] = set()
    if len(boxes) > most:
        few = min(_EXTREMES, most // 10)
        special = _extremes(boxes, np.concatenate([table.status for table in newest]), few)
        compared = [np.concatenate(others)] if against is not None else []
        if len(tables[0]) > 1:
            compared.append(np.concatenate([of[-2].boxes for of in tables]))
        for each in compared:
            special.update(_most_changed(boxes, each, few))
    typical = set(evenly(len(boxes), most - len(special)).tolist())
    shown = np.array(sorted(special | typical), np.int64)
    starts = np.cumsum([0, *map(len, newest)])
    return [
        [
            _Row(of, row - start, row in typical, other[row - start])
            for row in shown[(shown >= start) & (shown < start + len(of[-1]))].tolist()
        ]
        for of, other, start in zip(tables, others, starts.tolist(), strict=False)
    ]


def _extremes(boxes: NDArray[np.float64], status: NDArray[np.uint8], few: int) -> set[int]:
    """Return rows of the smallest and largest boxes, and some without content or image."""
    order = np.argsort((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable")
    ok = order[status[order] == OK]
    found = {*ok[:few].tolist(), *ok[-few:].tolist()}
    for kind in (EMPTY, UNREADABLE):
        found.update(np.flatnonzero(status == kind)[: few // 2].tolist())
    return found


def _others(table: BoxTable, box_set: BoxSet, against: BoxSet | None) -> NDArray[np.float32]:
    """Return the boxes of another set, not a number where it has none."""
    if against is None:
        return np.full((len(table), 4), np.nan, np.float32)
    boxes, there = against.lookup().find(table.keys, among=box_set.lookup())
    return np.where(there[:, None], boxes, np.float32(np.nan))


def _most_changed(boxes: NDArray[np.float64], others: NDArray[np.float32], count: int) -> list[int]:
    both = np.flatnonzero(~np.isnan(others[:, 0]))
    overlap = iou(boxes[both], others[both].astype(np.float64))
    order = np.argsort(overlap, kind="stable")[:count]
    return [int(row) for row in both[order][overlap[order] < 1]]


def _samples(source: Source, shard: str, keys: set[str]) -> dict[str, Sample]:
    """Read images by key, of a shard no further than the last of them."""
    # In order where there may be annotations beside the images, which an index does not give.
    if source.random_access and source.kind != "tar":
        index = source.index()
        places = (place for place, key in enumerate(index.keys) if key in keys)
        read = samples_at(index, places)
    else:
        read = (sample for sample in source.read(shard) if sample.key in keys)
    return {sample.key: sample for sample in islice(read, len(keys))}


def _item(row: _Row, sample: Sample | None, crop: CropParams) -> dict[str, Any]:
    """Return what the page reads of an image; absent where there is nothing to say."""
    newest, number = row.tables[-1], row.number
    picture = {} if sample is None else {"label": sample.label} | _picture(sample)
    *earlier, state = (_state(table, row, picture.get("size"), crop) for table in row.tables)
    item: dict[str, Any] = {
        "key": printable(row.key),
        "status": STATUSES[newest.status[number]],
        "typical": row.typical,
        "orientation": int(newest.orientation[number]),
    }
    known = int(newest.image_hash[number])
    if sample is None:
        item["absent"] = True
    elif known and known != image_hash(sample.image):
        item["bytes"] = True  # others than its box was computed from
    if earlier:
        item["earlier"] = earlier
    if not np.isnan(row.other[0]):
        item["other"] = row.other.tolist()
    return item | state | picture


def _state(table: BoxTable, row: _Row, size: list[int] | None, crop: CropParams) -> dict[str, Any]:
    """Return what a box set has of an image: its box, heatmap, and the windows drawn by it."""
    drawn = table.boxes[row.number]
    state: dict[str, Any] = {"box": drawn.tolist()}
    if table.choices is not None and len(choices := table.choices.of_row(row.number)) > 1:
        state["choices"] = choices.tolist()
        drawn = choices[0]
    # All heatmaps of a page have one grid: boxes that were given may have another.
    if table.heatmaps is not None and table.heatmap_shape == row.tables[-1].heatmap_shape:
        state["heat"] = _text(table.heatmaps[row.number].astype("<f2").tobytes())
    if size is not None:
        key = np.array([key_hash(row.key)], np.uint64)
        state["views"] = [
            sample_windows(
                drawn[None],
                np.array([size]),
                uniforms(0, 0, key, view, WINDOW, UNIFORMS_PER_WINDOW),
                crop,
            )[0].tolist()
            for view in range(_VIEWS)
        ]
    return state


def _picture(sample: Sample) -> dict[str, Any]:
    try:
        width, height = stored_size(sample.image)
        image = decode(sample.image)
    except UnreadableImage:
        return {}
    found: dict[str, Any] = {"size": [width, height]}
    if sample.annotation:
        with suppress(SourceError):  # an annotation of another kind
            found["true"] = true_boxes(sample.annotation).round(4).tolist()
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    for quality in (_QUALITY, _COARSE):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        if file.tell() <= _LARGE:
            break
    return found | {"picture": _text(file.getvalue())}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
