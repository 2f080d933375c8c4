"""Opening a complete box set."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base import BoxFolder, Location, is_address, open_folder
from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.tars import name_in_tar
from ccrop_pipeline.boxset.boxes import Choices
from ccrop_pipeline.boxset.lookup import BoxLookup
from ccrop_pipeline.boxset.lookup_places import open_lookup
from ccrop_pipeline.boxset.manifest import (
    MANIFEST,
    Manifest,
    ShardEntry,
    check_file,
    check_row_count,
    read_manifest,
    strays,
    wrong_sizes,
)
from ccrop_pipeline.boxset.rules import Problem, check_rows, refuse
from ccrop_pipeline.boxset.shards import (
    DATA,
    data_folder,
    load_shard,
    shard_file,
)
from ccrop_pipeline.boxset.table import BoxRow, BoxTable
from ccrop_pipeline.errors import BoxSetError, SettingError, counted, few

if TYPE_CHECKING:
    from PIL import Image

    from ccrop_pipeline.images import Source

MissingBoxes = Literal["error", "full"]


class MissingBoxError(BoxSetError, KeyError):
    """An image has no box."""


@dataclass(frozen=True)
class BoxSet:
    """A complete box set; `BoxSet.open` makes one.

    `len(boxes)`, `key in boxes`, `boxes[key]` and iteration are of its rows, one an image.

    Attributes:
        folder: Where it is, as it was opened: a local path, or an address that fsspec knows.
        manifest: What it consists of.
    """

    folder: Location
    manifest: Manifest

    @classmethod
    def open(cls, folder: Location) -> "BoxSet":
        """Open a box set after a quick check: the manifest, and the sizes of the shards.

        No shard is opened: a shard is checked against the manifest and the rules for rows when it
        is read. `validate` checks everything.

        Args:
            folder: A local path, or an address that fsspec knows.

        Raises:
            BoxSetError: If the folder holds no complete box set that this version can read.
        """
        place = open_folder(folder)
        there = place.inside(DATA).files()
        _expect_manifest(place, there)
        problems: list[Problem] = []
        manifest = read_manifest(place, problems)
        refuse(problems, f"{folder} cannot be opened: compute these boxes again.")
        assert manifest is not None
        refuse(wrong_sizes(manifest, there), _damaged(folder))
        return cls(folder if is_address(folder) else local_path(folder), manifest)

    def read(self, name: str, *, heatmaps: bool = True) -> BoxTable:
        """Read the rows of one shard.

        Args:
            name: Stem of the source shard, such as `train-000042`.
            heatmaps: Read the heatmaps as well, if there are any.

        Raises:
            BoxSetError: If there is no such shard, it is damaged, or not of this box set.
        """
        if name not in self._entries:
            raise BoxSetError(
                f"{self.folder} has no shard {name!r}; it has {len(self._entries)}, such as "
                f"{next(iter(self._entries), None)!r}. Use the boxes that were computed for this "
                "source."
            )
        form, entry, problems = self.manifest.form, self._entries[name], list[Problem]()
        fingerprint = self.manifest.provenance.fingerprint
        with data_folder(self.folder).local(shard_file(name, form)) as path:
            # Before it is parsed: these may be anybody's bytes.
            refuse(check_file(path, entry), _damaged(self.folder))
            table = load_shard(path, form, fingerprint, problems, heatmaps=heatmaps)
        if table is not None:
            problems += [*check_row_count(table, entry), *check_rows(table, path.name)]
        refuse(problems, _damaged(self.folder))
        assert table is not None
        return table

    def tables(self, *, heatmaps: bool = True) -> Iterator[tuple[str, BoxTable]]:
        """Read all shards, one at a time, in source order, with their names."""
        for entry in self.manifest.shards:
            yield entry.name, self.read(entry.name, heatmaps=heatmaps)

    def __len__(self) -> int:
        """Return the number of rows, one an image."""
        return self.manifest.rows

    def __iter__(self) -> Iterator[BoxRow]:
        """Yield all rows in source order; only one shard is in memory."""
        for _, table in self.tables(heatmaps=False):
            yield from table

    def __contains__(self, key: object) -> bool:
        """Tell whether an image of this key has a row."""
        return isinstance(key, str) and bool(self.lookup().rows([key])[0] >= 0)

    def __getitem__(self, key: str) -> BoxRow:
        """Return the row of a key. For many keys `find` is far quicker: this reads their shards.

        Raises:
            MissingBoxError: If there is none.
        """
        (row,) = self.lookup().rows([key]).tolist()
        if row < 0:
            raise self._missing([key])
        ends = self._ends
        shard = int(np.searchsorted(ends, row, side="right"))
        name = self.manifest.shards[shard].name
        if name not in self._last:
            self._last.clear()
            self._last[name] = self.read(name, heatmaps=False)
        return self._last[name].row(row - int(ends[shard]) + self.manifest.shards[shard].rows)

    def find(self, keys: Sequence[str], *, missing: MissingBoxes = "error") -> NDArray[np.float32]:
        """Return the boxes of keys, normalised `x_min, y_min, x_max, y_max`.

        They come from a memory-mapped file, which is built the first time. Where an image has
        several boxes, its box is their union. The key of an image in a folder, `cats/1.jpg`, also
        finds the box of `cats/1` in the tars that were packed from it, and the other way round,
        where no other of `keys`, and no other row, is called so: so give all keys at once.

        Args:
            keys: n keys, repeated or not.
            missing: What to do with a key that has no box: fail, or take the full box.

        Returns:
            float32 (n, 4).

        Raises:
            MissingBoxError: If a key has no box and that is an error.
            CcropError: If the file cannot be built.
        """
        if isinstance(keys, str):
            raise SettingError(f"keys is the text {keys!r}; it must be a list, such as [{keys!r}].")
        if missing not in get_args(MissingBoxes):
            raise SettingError(f"missing is {missing!r}; it must be 'error' or 'full'.")
        boxes, found = self.lookup().find(keys)
        if missing == "error" and not found.all():
            absent = [key for key, there in zip(keys, found, strict=True) if not there]
            raise self._missing(absent, len(keys))
        return boxes

    def choices(self, keys: Sequence[str], *, missing: MissingBoxes = "error") -> Choices | None:
        """Return the boxes that a sampler may draw from, n rows; None where each key has one box.

        Args:
            keys: n keys, repeated or not.
            missing: As in `find`.

        Raises:
            MissingBoxError: If a key has no box and that is an error.
        """
        choices = self.lookup().choices(keys)
        if choices is not None:
            self.find(keys, missing=missing)
        return choices

    def show(
        self,
        source: "Source | str | Path",
        keys: Sequence[str] | None = None,
        *,
        pick: str = "random",
        count: int = 12,
        against: "BoxSet | Location | None" = None,
        seed: int = 0,
    ) -> "Image.Image":
        """Draw images with their boxes, heatmaps and two views each; Jupyter displays it.

        Args:
            source: The images they were computed from, or what `open_source` opens.
            keys: Images to draw; None: those that `pick` chooses.
            pick: `random`, `smallest`, `largest`, `empty` or `moved`, which needs `against`.
            count: Number of images to pick.
            against: Another box set, whose boxes are drawn as well.
            seed: Of the random choice.

        Raises:
            BoxSetError: If a key has no box, or no image is of the kind that is picked.
            SourceError: If the source lacks an image.
        """
        # What draws is rooms above this one, which works where they are not needed.
        picture: Image.Image = import_module("ccrop_pipeline.report").show(
            self, source, keys, pick=pick, count=count, against=against, seed=seed
        )
        return picture

    def lookup(self) -> BoxLookup:
        """Open the boxes for finding by key, from a cache file that is built the first time.

        Raises:
            CcropError: If a key occurs twice, or there is no place for the cache.
        """
        return self._lookup

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was cached: a worker maps the lookup for itself."""
        return {"folder": self.folder, "manifest": self.manifest}

    @cached_property
    def _lookup(self) -> BoxLookup:
        tables = lambda: (table for _, table in self.tables(heatmaps=False))  # noqa: E731
        return open_lookup(self.folder, self.manifest.sha256, tables)

    @cached_property
    def _entries(self) -> dict[str, ShardEntry]:
        return {entry.name: entry for entry in self.manifest.shards}

    @cached_property
    def _ends(self) -> NDArray[np.int64]:  # of the shards, in rows of the whole set
        return np.cumsum([entry.rows for entry in self.manifest.shards])

    @cached_property
    def _last(self) -> dict[str, BoxTable]:  # the shard that was looked into last
        return {}

    def _missing(self, absent: Sequence[str], of: int = 1) -> "MissingBoxError":
        some = next((row.key for row in self), None)
        names = Counter(map(name_in_tar, dict.fromkeys(absent)))
        (name, times), *_ = names.most_common(1)
        alike = f" {times} of them would be {name!r} in a tar: rename them." if times > 1 else ""
        forms = [normalize(form, key) for key in absent[:3] for form in ("NFC", "NFD")]
        if (self.lookup().rows(forms) >= 0).any():
            alike += " They differ in how Unicode writes accents (NFC or NFD): rename the files."
        return MissingBoxError(
            f"{len(absent)} of {of} images have no box in {self.folder}, such as "
            f"{', '.join(map(repr, absent[:3]))}; its keys look like {some!r}.{alike} Give the "
            "keys of the source that the boxes were computed from, compute boxes for these images, "
            "or let them keep the full box (`missing` full)."
        )


def _damaged(folder: Location) -> str:
    return (
        f"{folder} is damaged: copy it again, or compute these boxes again. "
        "`ccrop boxes validate` names all that is wrong."
    )


def _expect_manifest(folder: BoxFolder, there: Iterable[str]) -> None:
    if folder.has(MANIFEST):
        return
    if not folder.exists():
        raise BoxSetError(f"there is no folder {folder}. Compute boxes into it, or check the path.")
    if shards := strays(there, ()):
        raise BoxSetError(
            f"the box set {folder} is not complete: it has {counted(len(shards), 'shard')} and no "
            f"{MANIFEST}. Resume by running the same command that was computing it."
        )
    here = None if is_address(str(folder)) else Path(str(folder))
    found = [*here.glob(f"boxes/*/{MANIFEST}"), *here.glob(f"*/{MANIFEST}")] if here else []
    is_run = here is not None and (here / "run.json").is_file()
    if found:
        what = f"Give one of those in it: {few(str(file.parent) for file in sorted(found))}."
    elif is_run:
        what = f"Compute boxes from it: `ccrop boxes compute SOURCE OUT --model {here}`."
    else:
        what = "Check the path."
    raise BoxSetError(
        f"{folder} is {'a run, and ' * is_run}not a box set: it has no {MANIFEST}. {what}"
    )


Boxes = Location | BoxSet  # a box set, or its folder


def opened(boxes: Boxes) -> BoxSet:
    """Return a box set that may be open already.

    Raises:
        BoxSetError: If the folder holds no complete box set.
    """
    return boxes if isinstance(boxes, BoxSet) else BoxSet.open(boxes)
