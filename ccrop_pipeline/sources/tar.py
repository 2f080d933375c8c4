"""WebDataset tar shards: ``KEY.jpg`` with ``KEY.cls`` and ``KEY.json`` side by side."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ccrop_pipeline.sources.classes import read_classes
from ccrop_pipeline.sources.keys import Keys, refuse_duplicates
from ccrop_pipeline.sources.shards import shard_position
from ccrop_pipeline.sources.source import Sample, digest_files
from ccrop_pipeline.sources.tar_scan import Entry, Extent, open_tar, read_extent, read_label, scan

MAX_OPEN = 256  # a quarter of the usual limit of 1024 descriptors a process


@dataclass(frozen=True)
class TarSource:
    """Tar files, one shard each, named by their stems.

    Attributes:
        location: What was opened, as given.
        paths: The tar files, in order.
    """

    kind: ClassVar[str] = "tar"
    random_access: ClassVar[bool] = True
    location: str
    paths: tuple[Path, ...]

    @property
    def shards(self) -> tuple[str, ...]:
        """Stems of the tar files."""
        return tuple(path.stem for path in self.paths)

    @property
    def classes(self) -> tuple[str, ...]:
        """Lines of ``classes.txt`` beside the first tar."""
        return read_classes(self.paths[0].parent)

    def read(self, shard: str) -> Iterator[Sample]:
        """Yield the samples of one tar in stored order.

        Raises:
            CcropError: If the tar is damaged, a sample has no image, or a key comes twice.
        """
        path = self.paths[shard_position(self.shards, shard)]
        with open_tar(path) as file:
            for entry in scan(path):
                yield _sample(file.fileno(), entry, path)

    def fingerprint(self) -> str:
        """Return a digest of the tars' names, sizes, beginnings and ends, not of all contents."""
        return digest_files(self.kind, self.paths)

    def index(self) -> "TarIndex":
        """Scan all headers and return random access by offset.

        Raises:
            CcropError: As ``read``, and if two tars hold the same key.
        """
        keys: list[str] = []
        extents: list[Extent] = []
        labels: list[int] = []
        shard_of: list[int] = []
        for position, path in enumerate(self.paths):
            with open_tar(path) as file:
                for entry in scan(path):
                    label = read_label(file.fileno(), entry, path)
                    keys.append(entry.key)
                    extents.append(entry.image)
                    labels.append(-1 if label is None else label)
                    shard_of.append(position)
        index = TarIndex(self.paths, Keys(keys), extents, labels, shard_of)
        refuse_duplicates(
            index.keys, index.shard_of, [str(path) for path in self.paths], "rename one of them."
        )
        return index


class TarIndex:
    """Random access to the images of several tars.

    ``read`` never moves a file position, so forked workers may share the descriptors; a
    pickled index carries none and opens its own on first use.
    """

    def __init__(
        self,
        paths: tuple[Path, ...],
        keys: Keys,
        extents: list[Extent],
        labels: list[int],
        shard_of: list[int],
    ) -> None:
        self.keys = keys
        self.labels = np.array(labels, dtype=np.int64)
        self.shard_of = np.array(shard_of, dtype=np.int32)
        self._extents = np.array(extents, dtype=np.int64).reshape(-1, 2)
        self._paths = paths
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.keys)

    def read(self, i: int) -> bytes:
        """Return the encoded bytes of image ``i``."""
        shard = int(self.shard_of[i])
        offset, size = self._extents[i].tolist()
        if shard not in self._open and len(self._open) < MAX_OPEN:
            with open_tar(self._paths[shard]) as file:
                self._open[shard] = os.dup(file.fileno())
        if shard in self._open:
            return read_extent(self._open[shard], Extent(offset, size), self._paths[shard])
        with open_tar(self._paths[shard]) as file:
            return read_extent(file.fileno(), Extent(offset, size), self._paths[shard])

    def __getstate__(self) -> dict[str, object]:
        """Leave the descriptors behind: they mean nothing in another process."""
        return self.__dict__ | {"_open": {}}

    def __del__(self) -> None:
        """Close the descriptors."""
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)


def _sample(descriptor: int, entry: Entry[Extent], path: Path) -> Sample:
    return Sample(
        key=entry.key,
        image=read_extent(descriptor, entry.image, path),
        label=read_label(descriptor, entry, path),
        annotation=entry.annotation and read_extent(descriptor, entry.annotation, path),
    )
