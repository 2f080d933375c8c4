"""Images of one's own with their boxes: which ones, and a picture of them."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccrop_pipeline.base.values import did_you_mean
from ccrop_pipeline.boxset import EMPTY, OK, Boxes, BoxSet, MissingBoxError, opened
from ccrop_pipeline.boxset.rejoined import images_of
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import BoxSetError, SettingError, SourceError, printable, shown
from ccrop_pipeline.images import Sample, Source, open_source
from ccrop_pipeline.images.source import samples_at
from ccrop_pipeline.report.contact_sheet import Shown, draw_sheet
from ccrop_pipeline.report.diff import diff, nothing_shared

Pick = Literal["random", "smallest", "largest", "empty", "moved"]
_COMPARED = 20_000  # keys that one which is not there is held against
_NONE = {
    "empty": "no image of {} is empty: every heatmap of a readable image has content.",
    "moved": "no box moved: those of {} are the same in both box sets.",
}


def show(
    boxes: Boxes,
    source: Source | str | Path,
    keys: Sequence[str] | None = None,
    *,
    pick: Pick = "random",
    count: int = 12,
    against: Boxes | None = None,
    seed: int = 0,
) -> Image.Image:
    """Draw images with their boxes, heatmaps and two views each.

    Of sources that can be read by position only these images are read; of others their shards, as
    far as the last of them.

    Args:
        boxes: A box set, or its folder.
        source: The images they were computed from, or what `open_source` opens.
        keys: Images to draw, in this order; None: those that `pick` chooses.
        pick: See `pick_keys`.
        count: Number of images to pick.
        against: Another box set, whose boxes are drawn as well.
        seed: Of the random choice.

    Raises:
        BoxSetError: If a key has no box, no image is of the kind that is picked, or `against` has
            none of them.
        SourceError: If the source lacks an image.
        SettingError: If an argument is out of its range.
    """
    box_set, other = opened(boxes), None if against is None else opened(against)
    if isinstance(source, str | Path):
        source = open_source(source)
    if keys is None:
        keys = pick_keys(box_set, pick, count, against=other, seed=seed)
    if isinstance(keys, str) or not keys:
        raise SettingError(f"keys is {keys!r}; it must be a list of one or more keys.")
    rows = _joined(box_set, other, source, keys)
    if other is None:
        return draw_sheet(rows, CropParams())
    names = printable(box_set.folder), printable(other.folder)
    return draw_sheet(rows, CropParams(), names=names)


def pick_keys(
    box_set: BoxSet, pick: Pick, count: int, *, against: BoxSet | None = None, seed: int = 0
) -> list[str]:
    """Choose images worth a look; the same ones each time.

    Args:
        box_set: The boxes.
        pick: `random`; `smallest` or `largest` box among images that have content; `empty`: the
            first images whose heatmap has none; `moved`: the least IoU with `against`.
        count: The most to choose.
        against: Another box set over the same images.
        seed: Of the random choice.

    Returns:
        Keys: random ones and empty ones in source order, the others with the most extreme first.

    Raises:
        BoxSetError: If there is none, or the two box sets share no image.
        SettingError: If the choice is unknown, or lacks what it is made by.
    """
    if pick not in get_args(Pick):
        close = did_you_mean(str(pick), get_args(Pick))
        raise SettingError(f"pick is {pick!r}; it must be one of {get_args(Pick)}{close}.")
    if count < 1:
        raise SettingError(f"count is {count}; it must be 1 or more.")
    if pick == "moved":
        if against is None:
            raise SettingError("`pick` moved needs `against`, the box set to compare with.")
        found = diff(against, box_set, count)
        if not found.both:
            raise nothing_shared(box_set, against)
        keys = [mover.key for mover in found.movers]
    elif pick == "random":
        keys = _random(box_set, count, seed)
    elif pick == "empty":
        keys = list(islice(_empty(box_set), count))
    else:
        sign = 1 if pick == "smallest" else -1
        keys = [key for _, _, key in heapq.nsmallest(count, _by_area(box_set, sign, count))]
    if not keys:
        why = _NONE.get(pick, "no image of {} has content.")
        raise BoxSetError(f"{why.format(box_set.folder)} Pick another kind.")
    return keys


def _random(box_set: BoxSet, count: int, seed: int) -> list[str]:
    rows = len(box_set)
    chosen = np.random.default_rng(seed).choice(rows, min(count, rows), replace=False)
    keys, first = [], 0
    for entry in box_set.manifest.shards:
        within = np.sort(chosen[(chosen >= first) & (chosen < first + entry.rows)]) - first
        if len(within):
            table = box_set.read(entry.name, heatmaps=False)
            keys += [table.keys[row] for row in within]
        first += entry.rows
    return keys


def _empty(box_set: BoxSet) -> Iterator[str]:
    for _, table in box_set.tables(heatmaps=False):
        yield from (table.keys[row] for row in np.flatnonzero(table.status == EMPTY))


def _by_area(box_set: BoxSet, sign: int, count: int) -> Iterator[tuple[float, int, str]]:
    """Yield what may be among the first, of each shard: signed area, row in the set, key."""
    first = 0
    for _, table in box_set.tables(heatmaps=False):
        rows = np.flatnonzero(table.status == OK)
        sides = (table.boxes[rows, 2:] - table.boxes[rows, :2]).astype(np.float64)
        areas = sign * sides.prod(1)
        for place in np.argsort(areas, kind="stable")[:count].tolist():
            yield float(areas[place]), first + int(rows[place]), table.keys[rows[place]]
        first += len(table)


def _joined(
    box_set: BoxSet, other: BoxSet | None, source: Source, keys: Sequence[str]
) -> list[Shown]:
    rows = box_set.lookup().rows(keys)
    if (absent := np.flatnonzero(rows < 0)).size:
        raise _unknown(box_set, keys[absent[0]])
    ends = np.cumsum([entry.rows for entry in box_set.manifest.shards])
    shard_of = np.searchsorted(ends, rows, side="right")
    names = [box_set.manifest.shards[number].name for number in shard_of]
    tables = {name: box_set.read(name) for name in dict.fromkeys(names)}
    places = (rows - ends[shard_of] + [len(tables[name]) for name in names]).tolist()
    # A key may be that of the image in tars or in their folder.
    keys = [tables[name].keys[place] for name, place in zip(names, places, strict=True)]
    wanted = dict(zip(keys, names, strict=True))
    samples = _samples(box_set, source, wanted)
    others: list[NDArray[np.float32] | None] = [None] * len(keys)
    if other is not None:
        edges, known = other.lookup().find(keys, among=box_set.lookup())
        if not known.any():
            raise nothing_shared(box_set, other)
        others = [box if there else None for box, there in zip(edges, known, strict=True)]
    return [
        Shown.of_row(tables[name], place, samples[key], box)
        for name, place, key, box in zip(names, places, keys, others, strict=True)
    ]


def _samples(box_set: BoxSet, source: Source, shard_of: Mapping[str, str]) -> dict[str, Sample]:
    """Read images by key; `shard_of` says in which shard of the box set each is."""
    found: dict[str, Sample] = {}
    if source.random_access:
        index = source.index()
        places = (place for place, key in enumerate(index.keys) if key in shard_of)
        found = {sample.key: sample for sample in samples_at(index, places)}
    else:
        for shard in {*shard_of.values()} & {*source.shards}:
            wanted = {key for key, own in shard_of.items() if own == shard}
            samples = (sample for sample in source.read(shard) if sample.key in wanted)
            found |= {sample.key: sample for sample in islice(samples, len(wanted))}
    if absent := [key for key in shard_of if key not in found]:
        if (joined := images_of(box_set, source)) is not source:
            return _samples(box_set, joined, shard_of)
        raise SourceError(
            f"{source.location} has no image {shown(absent[0])}, of which {box_set.folder} has a "
            "box. Give the source that these boxes were computed from."
        )
    return found


def _unknown(box_set: BoxSet, key: str) -> MissingBoxError:
    every = [each for _, table in box_set.tables(heatmaps=False) for each in table.keys]
    stem = PurePosixPath(key).stem
    within = [each for each in every if stem and stem in each]
    likely = (within or every)[:_COMPARED]
    close = did_you_mean(key, likely, cutoff=0.2 if within else 0.6)
    looks = f" its keys look like {shown(every[0])}." if every else ""
    return MissingBoxError(f"{box_set.folder} has no image {shown(key)}{close};{looks}")
