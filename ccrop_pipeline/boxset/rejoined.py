"""The images of a box set, from a source that has them under other keys or in other shards.

The one file of this room that needs `images`, so that the room itself does not import it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset.reader import BoxSet
from ccrop_pipeline.errors import SourceError, few, shown
from ccrop_pipeline.images import ImageIndex, Sample, Source
from ccrop_pipeline.images.keys import Keys
from ccrop_pipeline.images.source import part_of, samples_at

_SEEN = 64  # images, by whose keys shards are taken for those of a box set


def images_of(box_set: BoxSet, source: Source) -> Source:
    """Return the images of a source in the shards, in the order and by the keys of a box set.

    So those who read images beside their boxes, shard by shard, need not care whether boxes of a
    folder are joined to its tars, or boxes of tars to their folder.

    Returns:
        The source itself where its shards and keys are those of the box set, where none of its
        images has a box there, or where it can only be read in order.

    Raises:
        CcropError: If box set or source cannot be read.
    """
    if not source.random_access or _has_its_shards(source, box_set):
        return source
    index = source.index()
    rows = box_set.lookup().rows(list(index.keys))
    return Rejoined.of(source, index, box_set, rows) if (rows >= 0).any() else source


def expect_shared(box_set: BoxSet, source: Source) -> None:
    """Refuse images that have no shard of a box set, by the keys of either.

    Args:
        box_set: The boxes.
        source: What `images_of` gave for them.

    Raises:
        SourceError: If both have images, and no shard is in both.
    """
    names = [entry.name for entry in box_set.manifest.shards if entry.rows]
    if not names or {*names} & {*source.shards}:
        return
    samples = (sample for shard in source.shards for sample in source.read(shard))
    theirs = [sample.key for sample in islice(samples, 2)]
    ours = box_set.read(names[0], heatmaps=False).keys[:2]
    raise SourceError(
        f"{box_set.folder} has boxes of other images than those in {source.location}: its keys are "
        f"like {few(ours)}, and those there like {few(theirs) or 'none'}. Give the source that the "
        f"boxes were computed from; its first shard is called {shown(names[0])}."
    )


def _has_its_shards(source: Source, box_set: BoxSet) -> bool:
    if not {*source.shards} <= {entry.name for entry in box_set.manifest.shards}:
        return False
    for shard in source.shards:
        if keys := [sample.key for sample in islice(source.read(shard), _SEEN)]:
            own = {*box_set.read(shard, heatmaps=False).keys}
            others = [key for key in keys if key not in own]
            # Of a folder, those that have no ending are called the same in its tars.
            found = bool(others) and (box_set.lookup().rows(others) >= 0).any()
            return len(others) < len(keys) and not found
    return True


@dataclass(frozen=True)
class Rejoined:
    """A source as a box set has it. Images without a box come last, under keys of their own.

    There are no annotations, which an index does not give.

    Attributes:
        source: Where the images are.
        images: The same by position.
        keys: Key of each image.
        places: Where in `images` each is.
        parts: The images of each shard.
    """

    kind: ClassVar[str] = "rejoined"
    random_access: ClassVar[bool] = True
    source: Source
    images: ImageIndex
    keys: Keys
    places: NDArray[np.int64]
    parts: dict[str, range]

    @classmethod
    def of(
        cls, source: Source, images: ImageIndex, box_set: BoxSet, rows: NDArray[np.int64]
    ) -> "Rejoined":
        """Put images into the order of a box set.

        Args:
            source: Where the images are.
            images: The same by position.
            box_set: Whose shards, order and keys they get.
            rows: Row of each in the box set, -1 for one without.
        """
        joined, strays = np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)
        joined = joined[np.argsort(rows[joined])]
        keys, parts, first, start = list[str](), dict[str, range](), 0, 0
        for name, table in box_set.tables(heatmaps=False):
            end = first + len(table)
            stop = int(np.searchsorted(rows[joined], end))
            keys += [table.keys[row - first] for row in rows[joined[start:stop]]]
            parts[name], first, start = range(start, stop), end, stop
        parts[name] = range(parts[name].start, len(rows))
        keys += [images.keys[place] for place in strays.tolist()]
        return cls(source, images, Keys(keys), np.concatenate([joined, strays]), parts)

    @property
    def location(self) -> str:
        """Where the images are."""
        return self.source.location

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the source."""
        return self.source.classes

    @property
    def shards(self) -> tuple[str, ...]:
        """Those of the box set."""
        return tuple(self.parts)

    def read(self, shard: str) -> Iterator[Sample]:
        """Return the samples of one shard in the order of its rows, strays behind the last."""
        return samples_at(self.index(), part_of(self.parts, shard))

    def fingerprint(self) -> str:
        """Return that of the source."""
        return self.source.fingerprint()

    def index(self) -> "RejoinedIndex":
        """Return random access to all images."""
        return RejoinedIndex(self)


class RejoinedIndex:
    """Random access to images in the order of a box set."""

    def __init__(self, source: Rejoined) -> None:
        self._images, self._places = source.images, source.places
        self.keys, self.labels = source.keys, source.images.labels[source.places]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._places)

    def read(self, i: int) -> bytes:
        """Return the encoded bytes of image `i`."""
        return self._images.read(int(self._places[i]))
