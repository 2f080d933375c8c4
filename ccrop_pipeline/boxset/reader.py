"""Opening a complete box set."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset.lookup import BoxLookup, open_lookup
from ccrop_pipeline.boxset.manifest import MANIFEST, Manifest, read_manifest, strays
from ccrop_pipeline.boxset.rules import Problem, refuse
from ccrop_pipeline.boxset.shards import FORMS, check_provenance
from ccrop_pipeline.boxset.table import BoxTable
from ccrop_pipeline.errors import CcropError


@dataclass(frozen=True)
class BoxSet:
    """A complete box set on disk; `BoxSet.open` makes one.

    Attributes:
        folder: Where it is.
        manifest: What it consists of.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "BoxSet":
        """Open a box set after a quick check: the manifest, and the sizes of the shards.

        No shard is opened: that a shard has the provenance of the manifest is checked when it
        is read. `validate` checks everything.

        Raises:
            CcropError: If the folder holds no complete box set that this version can read.
        """
        folder = Path(folder)
        _expect_manifest(folder)
        problems: list[Problem] = []
        manifest = read_manifest(folder, problems)
        refuse(problems, f"{folder} cannot be opened: compute these boxes again.")
        assert manifest is not None
        for entry in manifest.shards:
            path = folder / entry.file
            if not path.is_file() or path.stat().st_size != entry.bytes:
                problems.append(Problem("B007", entry.file, "missing, or not of the size listed"))
        refuse(problems, _damaged(folder))
        return cls(folder, manifest)

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
        path, form, problems = self.folder / files[name], self.manifest.form, list[Problem]()
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
            lambda: ((table.keys, table.boxes) for _, table in self.tables(heatmaps=False)),
        )


def _damaged(folder: Path) -> str:
    return f"{folder} is damaged: copy it again, or compute these boxes again."


def _expect_manifest(folder: Path) -> None:
    if not folder.is_dir():
        raise CcropError(f"there is no folder {folder}. Compute boxes into it, or check the path.")
    if (folder / MANIFEST).exists():
        return
    if found := strays(folder, ()):
        raise CcropError(
            f"the box set {folder} is not complete: it has {len(found)} shards and no {MANIFEST}. "
            "Resume by running the same command that was computing it."
        )
    raise CcropError(f"{folder} is not a box set: it has no {MANIFEST}. Check the path.")
