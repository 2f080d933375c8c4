"""Opening a complete box set."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base import BoxFolder, Location, is_address, open_folder
from ccrop_pipeline.boxset.boxes import Choices
from ccrop_pipeline.boxset.lookup import BoxLookup, open_lookup
from ccrop_pipeline.boxset.manifest import (
    MANIFEST,
    Manifest,
    read_manifest,
    strays,
    write_manifest,
    wrong_sizes,
)
from ccrop_pipeline.boxset.rules import Problem, refuse
from ccrop_pipeline.boxset.shards import (
    DATA,
    FORMS,
    check_provenance,
    data_folder,
    shard_file,
    shard_is_complete,
    write_shard,
)
from ccrop_pipeline.boxset.table import BoxTable
from ccrop_pipeline.errors import CcropError


@dataclass(frozen=True)
class BoxSet:
    """A complete box set; `BoxSet.open` makes one.

    Attributes:
        folder: Where it is, as it was opened: a local path, or an address that fsspec knows.
        manifest: What it consists of.
    """

    folder: Location
    manifest: Manifest

    @classmethod
    def open(cls, folder: Location) -> "BoxSet":
        """Open a box set after a quick check: the manifest, and the sizes of the shards.

        No shard is opened: that a shard has the provenance of the manifest is checked when it
        is read. `validate` checks everything.

        Args:
            folder: A local path, or an address that fsspec knows.

        Raises:
            CcropError: If the folder holds no complete box set that this version can read.
        """
        place = open_folder(folder)
        there = place.inside(DATA).files()
        _expect_manifest(place, there)
        problems: list[Problem] = []
        manifest = read_manifest(place, problems)
        refuse(problems, f"{folder} cannot be opened: compute these boxes again.")
        assert manifest is not None
        refuse(wrong_sizes(manifest, there), _damaged(folder))
        return cls(folder if is_address(folder) else Path(folder), manifest)

    def read(self, name: str, *, heatmaps: bool = True) -> BoxTable:
        """Read the rows of one shard.

        Args:
            name: Stem of the source shard, such as `train-000042`.
            heatmaps: Read the heatmaps as well, if there are any.

        Raises:
            CcropError: If there is no such shard, it is damaged, or not of this box set.
        """
        if name not in self._names:
            raise CcropError(
                f"{self.folder} has no shard {name!r}; it has {len(self._names)}, such as "
                f"{next(iter(self._names), None)!r}. Use the boxes that were computed for this "
                "source."
            )
        form, problems = self.manifest.form, list[Problem]()
        with data_folder(self.folder).local(shard_file(name, form)) as path:
            check_provenance(path, form, self.manifest.provenance.fingerprint, problems)
            refuse(problems, _damaged(self.folder))
            table = FORMS[form].load(path, problems, heatmaps)
        refuse(problems, _damaged(self.folder))
        assert table is not None
        return table

    @cached_property
    def _names(self) -> dict[str, None]:  # a set with an order
        return dict.fromkeys(entry.name for entry in self.manifest.shards)

    def tables(self, *, heatmaps: bool = True) -> Iterator[tuple[str, BoxTable]]:
        """Read all shards, one at a time, in source order, with their names."""
        for entry in self.manifest.shards:
            yield entry.name, self.read(entry.name, heatmaps=heatmaps)

    def lookup(self) -> BoxLookup:
        """Open the boxes for finding by key, from a cache file that is built the first time.

        Raises:
            CcropError: If a key stands twice, or there is no place for the cache.
        """
        return open_lookup(
            self.folder,
            self.manifest.sha256,
            lambda: (table for _, table in self.tables(heatmaps=False)),
        )


def _damaged(folder: Location) -> str:
    return f"{folder} is damaged: copy it again, or compute these boxes again."


def _expect_manifest(folder: BoxFolder, there: Iterable[str]) -> None:
    if folder.has(MANIFEST):
        return
    if not folder.exists():
        raise CcropError(f"there is no folder {folder}. Compute boxes into it, or check the path.")
    if found := strays(there, ()):
        raise CcropError(
            f"the box set {folder} is not complete: it has {len(found)} shards and no {MANIFEST}. "
            "Resume by running the same command that was computing it."
        )
    raise CcropError(f"{folder} is not a box set: it has no {MANIFEST}. Check the path.")


MissingBoxes = Literal["error", "full"]
Boxes = Location | BoxSet  # a box set, or its folder


def opened(boxes: Boxes) -> BoxSet:
    """Return a box set that may be open already.

    Raises:
        CcropError: If the folder holds no complete box set.
    """
    return boxes if isinstance(boxes, BoxSet) else BoxSet.open(boxes)


class BoxFinder:
    """Finds boxes by key in a memory-mapped file that all workers share.

    Args:
        boxes: A box set, or its folder: a local path, or an address that fsspec knows.
        missing: What to do with a key that has no box: fail, or take the full box.

    Raises:
        CcropError: If the folder holds no complete box set.
    """

    def __init__(self, boxes: Boxes, missing: MissingBoxes = "error") -> None:
        if missing not in ("error", "full"):
            raise ValueError(f"missing must be 'error' or 'full', not {missing!r}")
        self._box_set = opened(boxes)
        self._lookup = self._box_set.lookup()
        self._missing = missing

    def find(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Return the boxes of keys, normalised x_min, y_min, x_max, y_max, (n, 4).

        Where an image has several boxes, this is their union.

        Raises:
            CcropError: If a key has no box and that is an error.
        """
        boxes, found = self._lookup.find(keys)
        if self._missing == "error" and not found.all():
            absent = [keys[i] for i in np.flatnonzero(~found)[:3]]
            raise CcropError(
                f"{np.count_nonzero(~found)} of {len(keys)} images have no box in "
                f"{self._box_set.folder}, such as {', '.join(map(repr, absent))}; its keys look "
                f"like {self._some_key()!r}. Give the keys of the source that the boxes were "
                "computed from, compute boxes for these images, or let them keep the full box "
                '(`missing`: "full").'
            )
        return boxes

    def choices(self, keys: Sequence[str]) -> Choices | None:
        """Return the boxes that a sampler may draw from, n rows; None where each key has one box.

        Raises:
            CcropError: If a key has no box and that is an error.
        """
        choices = self._lookup.choices(keys)
        if choices is not None and self._missing == "error":
            self.find(keys)
        return choices

    def _some_key(self) -> str | None:
        tables = self._box_set.tables(heatmaps=False)
        return next((table.keys[0] for _, table in tables if len(table.keys)), None)


def convert(folder: Location, out: Location, form: str) -> Manifest:
    """Write a box set again in another form, with the same rows and the same provenance.

    After a kill the same call continues. Parquet to WebDataset and back gives the same bytes
    with the same version of pyarrow.

    Args:
        folder: The box set: a local path, or an address that fsspec knows.
        out: Folder of the new one, either as well.
        form: `parquet` or `webdataset`.

    Returns:
        The new manifest.

    Raises:
        CcropError: If `folder` holds no complete box set, `out` holds something else, or
            a key cannot be kept by WebDataset.
        ValueError: If the form is not known.
    """
    boxes = BoxSet.open(folder)
    provenance = boxes.manifest.provenance
    names = [entry.name for entry in boxes.manifest.shards]
    for name in names:
        if not shard_is_complete(out, name, provenance, form):
            write_shard(out, name, boxes.read(name), provenance, form)
    return write_manifest(out, names, provenance, form)
