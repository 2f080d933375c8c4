"""Every breach of the rules in a box set, and in its match with its images."""

from collections.abc import Container, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ccrop_pipeline.base import BoxFolder, Location, open_folder
from ccrop_pipeline.boxset.inspection import Inspection
from ccrop_pipeline.boxset.lookup import BoxLookup
from ccrop_pipeline.boxset.lookup_places import kept_lookups
from ccrop_pipeline.boxset.manifest import (
    Manifest,
    ShardEntry,
    check_file,
    check_row_count,
    read_manifest,
    strays,
)
from ccrop_pipeline.boxset.rules import Problem
from ccrop_pipeline.boxset.shards import DATA, FORMS
from ccrop_pipeline.boxset.table import BoxTable


class SourceImage(NamedTuple):
    """An image as it is in the source: shard name, key, and xxh3 of its encoded bytes."""

    shard: str
    key: str
    image_hash: int


def validate(folder: Location, *, images: Iterable[SourceImage] | None = None) -> list[Problem]:
    """Find every breach of the rules, of B026 and B027 only with the images.

    Args:
        folder: The box set: a local path, or an address that fsspec knows.
        images: All images of the source, in source order.

    Returns:
        All problems; empty for a box set that is right.
    """
    place, problems = open_folder(folder), list[Problem]()
    manifest = read_manifest(place, problems)
    if manifest is None:
        return problems
    data = place.inside(DATA)
    there = data.files()
    files = {entry.file.removeprefix(f"{DATA}/"): entry for entry in manifest.shards}
    problems += strays(there, files)
    inspection = Inspection(data, manifest.form, manifest.provenance.fingerprint)
    lookups, first, seen_all = kept_lookups(manifest.sha256, problems), 0, True
    for file, entry in files.items():
        if file not in there:
            seen_all = False
            if Path(file).name == file:  # others break B006 and are not looked for
                problems.append(Problem("B007", entry.file, "the file is missing"))
            continue
        with data.local(file) as path:
            problems += check_file(path, entry)
            table = inspection.shard(path)
        if table is not None:
            problems += check_row_count(table, entry)
            problems += _check_lookups(lookups, table, first, entry)
        first += entry.rows
    found, statistics = inspection.problems(), inspection.tally.statistics()
    problems += found
    # Of rows that break rules, statistics would only show the same fault twice.
    if seen_all and not found and not statistics.agrees_with(manifest.statistics):
        message = f"statistics is {manifest.statistics}, and the rows give {statistics}"
        problems.append(Problem("B009", "manifest.json", message))
    if images is not None:
        problems += _check_images(data, there, manifest, images)
    return problems


def _check_lookups(
    lookups: list[BoxLookup], table: BoxTable, first: int, entry: ShardEntry
) -> list[Problem]:
    return [
        Problem("B032", entry.file, f"the lookup cache {lookup.path} has other rows: delete it")
        for lookup in lookups
        if not lookup.agrees_with(table, first)
    ]


def _check_images(
    data: BoxFolder, there: Container[str], manifest: Manifest, images: Iterable[SourceImage]
) -> list[Problem]:
    problems: list[Problem] = []
    # No image tells of a source shard that is empty.
    files = {e.name: e.file.removeprefix(f"{DATA}/") for e in manifest.shards if e.rows}
    files = {name: file for name, file in files.items() if file in there}
    seen: dict[str, None] = {}  # a set with an order
    for name, group in groupby(images, key=lambda image: image.shard):
        if name not in files or name in seen:
            wrong = "is not in one piece" if name in seen else "has no boxes"
            problems.append(Problem("B026", str(data), f"the source shard {name!r} {wrong}"))
            continue
        seen[name] = None
        # What cannot be read was reported before.
        with data.local(files[name]) as path:
            _, table = FORMS[manifest.form].load(path, [], heatmaps=False)
        if table is not None:
            problems += _compare(table, list(group), files[name])
    problems += [
        Problem("B026", files[name], "the source has no such shard")
        for name in files
        if name not in seen
    ]
    order = [name for name in files if name in seen]
    if order != list(seen):
        message = "the shards are not in source order"
        problems.append(Problem("B026", "manifest.json", message))
    return problems


def _compare(table: BoxTable, images: list[SourceImage], file: str) -> list[Problem]:
    source = {image.key: image.image_hash for image in images}
    boxes = dict(zip(table.keys, table.image_hash.tolist(), strict=True))
    problems = [
        Problem("B026", file, f"the image {key!r} has no row") for key in _without(source, boxes)
    ]
    problems += [
        Problem("B026", file, f"the row {key!r} has no image") for key in _without(boxes, source)
    ]
    if not problems and table.keys != [image.key for image in images]:
        message = "the keys are those of the source in another order or number"
        problems.append(Problem("B026", file, message))
    for key, image_hash in source.items():
        if key in boxes and boxes[key] != image_hash:
            message = f"the image {key!r} changed: {image_hash:016x}, not {boxes[key]:016x}"
            problems.append(Problem("B027", file, message))
    return problems


def _without(keys: Mapping[str, int], others: Mapping[str, int]) -> list[str]:
    return [key for key in keys if key not in others]
