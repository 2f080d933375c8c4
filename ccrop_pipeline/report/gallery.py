"""The images of a report: which are shown, and all that its page draws of each of them."""

import base64
import io
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccrop_pipeline.boxset import EMPTY, OK, STATUSES, UNREADABLE, BoxSet, BoxTable, iou
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
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    among: int = 0
    shards: int = 0
    other_bytes: int = 0
    absent: int = 0
    grid: tuple[int, int] | None = None


@dataclass
class _Row:
    """A row that is shown, and whether it is one of those that are evenly spread."""

    table: BoxTable
    number: int
    typical: bool
    other: NDArray[np.float32]  # not a number where there is none

    @property
    def key(self) -> str:
        return self.table.keys[self.number]


def gallery(
    box_set: BoxSet, source: Source, *, crop: CropParams, against: BoxSet | None
) -> Gallery:
    """Choose up to 200 images out of up to 8 shards, and read them.

    The smallest and largest boxes of these shards, those without content or image, and those that
    differ most from the other set; all others are evenly spread.

    Args:
        box_set: Boxes, with heatmaps or without.
        source: The images they belong to.
        crop: How windows of views are drawn.
        against: Another box set over the same images.

    Raises:
        SourceError: If no shard of the source is one of the box set.
    """
    there = set(source.shards)
    names = [entry.name for entry in box_set.manifest.shards if entry.rows]
    if names and not there.intersection(names):
        raise SourceError(
            f"{source.location} has no shard {names[0]!r}, nor any other of {box_set.folder}. "
            "Give the source that the boxes were computed from."
        )
    names = [name for name in names if name in there]
    chosen = [names[at] for at in evenly(len(names), _SHARDS)]
    tables = [box_set.read(name) for name in chosen]
    grid = tables[0].heatmap_shape if tables else None
    found = Gallery(among=sum(map(len, tables)), shards=len(chosen), grid=grid)
    for name, rows in zip(chosen, _chosen_rows(tables, against), strict=True):
        samples = _samples(source, name, {row.key for row in rows})
        for row in rows:
            sample = samples.get(row.key)
            known = int(row.table.image_hash[row.number])
            found.absent += sample is None
            found.other_bytes += bool(
                sample is not None and known and known != image_hash(sample.image)
            )
            found.items.append(_item(row, sample, crop))
    return found


def _chosen_rows(tables: list[BoxTable], against: BoxSet | None) -> list[list[_Row]]:
    """Return the rows to show of each table."""
    if not tables:
        return []
    boxes = np.concatenate([table.boxes for table in tables]).astype(np.float64)
    status = np.concatenate([table.status for table in tables])
    others = [_others(table, against) for table in tables]
    most = _MOST
    if shape := tables[0].heatmap_shape:
        most = max(20, min(most, _HEAT_BYTES * 3 // (shape[0] * shape[1] * 8)))
    special: set[int] = set()
    if len(boxes) > most:
        order = np.argsort((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable")
        ok = order[status[order] == OK]
        few = min(_EXTREMES, most // 10)
        special.update(ok[:few].tolist(), ok[-few:].tolist())
        for kind in (EMPTY, UNREADABLE):
            special.update(np.flatnonzero(status == kind)[: few // 2].tolist())
        if against is not None:
            special.update(_most_changed(boxes, np.concatenate(others), few))
    typical = set(evenly(len(boxes), most - len(special)).tolist())
    shown = np.array(sorted(special | typical), np.int64)
    starts = np.cumsum([0, *map(len, tables)])
    return [
        [
            _Row(table, row - start, row in typical, other[row - start])
            for row in shown[(shown >= start) & (shown < start + len(table))].tolist()
        ]
        for table, other, start in zip(tables, others, starts.tolist(), strict=False)
    ]


def _others(table: BoxTable, against: BoxSet | None) -> NDArray[np.float32]:
    """Return the boxes of another set, not a number where it has none."""
    if against is None:
        return np.full((len(table), 4), np.nan, np.float32)
    boxes, there = against.lookup().find(table.keys)
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
        places = [place for place, key in enumerate(index.keys) if key in keys]
        labels = (None if label < 0 else label for label in index.labels[places].tolist())
        read = (
            Sample(index.keys[place], index.read(place), label)
            for place, label in zip(places, labels, strict=True)
        )
    else:
        read = (sample for sample in source.read(shard) if sample.key in keys)
    return {sample.key: sample for sample in islice(read, len(keys))}


def _item(row: _Row, sample: Sample | None, crop: CropParams) -> dict[str, Any]:
    """Return what the page reads of an image; absent where there is nothing to say."""
    table, number = row.table, row.number
    box = table.boxes[number]
    item: dict[str, Any] = {
        "key": printable(row.key),
        "status": STATUSES[table.status[number]],
        "box": box.tolist(),
        "typical": row.typical,
        "orientation": int(table.orientation[number]),
    }
    drawn = box
    if table.choices is not None and len(choices := table.choices.of_row(number)) > 1:
        item["choices"] = choices.tolist()
        drawn = choices[0]
    if table.heatmaps is not None:
        item["heat"] = _text(table.heatmaps[number].astype("<f2").tobytes())
    if not np.isnan(row.other[0]):
        item["other"] = row.other.tolist()
        item["iou"] = float(iou(box, row.other[None].astype(np.float64))[0])
    if sample is not None:
        item |= {"label": sample.label} | _picture(sample, drawn, crop)
    return item


def _picture(sample: Sample, box: NDArray[np.float32], crop: CropParams) -> dict[str, Any]:
    try:
        width, height = stored_size(sample.image)
        image = decode(sample.image)
    except UnreadableImage:
        return {}
    size = np.array([[width, height]])
    views = [
        sample_windows(
            box[None],
            size,
            uniforms(
                0, 0, np.array([key_hash(sample.key)], np.uint64), view, WINDOW, UNIFORMS_PER_WINDOW
            ),
            crop,
        )[0].tolist()
        for view in range(_VIEWS)
    ]
    found: dict[str, Any] = {"size": [width, height], "views": views}
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
