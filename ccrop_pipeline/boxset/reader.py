"""Opening a complete box set."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset.folder import BoxFolder, Location, is_address, open_folder
from ccrop_pipeline.boxset.lookup import BoxLookup, open_lookup
from ccrop_pipeline.boxset.manifest import (
    MANIFEST,
    Manifest,
    read_manifest,
    strays,
    wrong_sizes,
)
from ccrop_pipeline.boxset.rules import Problem, refuse
from ccrop_pipeline.boxset.shards import FORMS, check_provenance
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
        there = place.files()
        _expect_manifest(place, there)
        problems: list[Problem] = []
        manifest = read_manifest(place, problems)
        refuse(problems, f"{folder} cannot be opened: compute these boxes again.")
        assert manifest is not None
        refuse(wrong_sizes(manifest, there), _damaged(folder))
        return cls(folder if is_address(folder) else Path(folder), manifest)

    def read(self, name: str, heatmaps: bool = True) -> BoxTable:
        """Read the rows of one shard.

        Args:
            name: Stem of the source shard, such as `train-000042`.
            heatmaps: Read the heatmaps as well, if there are any.

        Raises:
            CcropError: If there is no such shard, it is damaged, or not of this box set.
        """
        files = {entry.name: entry.file for entry in self.manifest.shards}
        if name not in files:
            raise CcropError(
                f"{self.folder} has no shard {name!r}; it has {len(files)}, such as "
                f"{next(iter(files), None)!r}. Use the boxes that were computed for this source."
            )
        form, problems = self.manifest.form, list[Problem]()
        with open_folder(self.folder).local(files[name]) as path:
            check_provenance(path, form, self.manifest.provenance.fingerprint, problems)
            refuse(problems, _damaged(self.folder))
            table = FORMS[form].load(path, problems, heatmaps)
        refuse(problems, _damaged(self.folder))
        assert table is not None
        return table

    def tables(self, heatmaps: bool = True) -> Iterator[tuple[str, BoxTable]]:
        """Read all shards, one at a time, in source order, with their names."""
        for entry in self.manifest.shards:
            yield entry.name, self.read(entry.name, heatmaps)

    def areas(self) -> NDArray[np.float32]:
        """Give the share of its image that each box covers, (rows,), in source order."""
        boxes = [table.boxes for _, table in self.tables(heatmaps=False)]
        sides = [table[:, 2:] - table[:, :2] for table in boxes]
        widths, heights = np.concatenate([np.empty((0, 2), np.float32), *sides]).T
        return np.asarray(widths * heights)

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
    if MANIFEST in there:
        return
    if not folder.exists():
        raise CcropError(f"there is no folder {folder}. Compute boxes into it, or check the path.")
    if found := strays(there, ()):
        raise CcropError(
            f"the box set {folder} is not complete: it has {len(found)} shards and no {MANIFEST}. "
            "Resume by running the same command that was computing it."
        )
    raise CcropError(f"{folder} is not a box set: it has no {MANIFEST}. Check the path.")
