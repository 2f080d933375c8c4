"""A folder of image files, with classes from its first level of folders."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from ccrop_pipeline.errors import SourceError
from ccrop_pipeline.images.decode import extension_by_name
from ccrop_pipeline.images.keys import Keys, numbered_shards
from ccrop_pipeline.images.source import Sample, digest, part_of


@dataclass(frozen=True)
class FolderSource:
    """Image files below a folder, keyed by relative POSIX path and sorted by it.

    The label is the position of the first-level folder among those that hold images; images
    directly in `root` have none. Hidden files and folders are passed over.
    `FILE.json` beside `FILE.jpg` is its annotation.

    Attributes:
        location: What was opened, as given.
        root: The folder.
    """

    kind: ClassVar[str] = "folder"
    random_access: ClassVar[bool] = True
    location: str
    root: Path

    @cached_property
    def keys(self) -> Keys:
        """All keys; the folder is walked once."""
        return Keys(sorted(_image_files(self.root)))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the first-level folders that hold images, sorted."""
        return tuple(sorted({key.partition("/")[0] for key in self.keys if "/" in key}))

    @cached_property
    def _rows(self) -> dict[str, range]:
        return numbered_shards(self.root.resolve().name or "images", len(self.keys))

    @cached_property
    def shards(self) -> tuple[str, ...]:
        """`NAME-000000` and so on, after the folder's name."""
        return tuple(self._rows)

    def read(self, shard: str) -> Iterator[Sample]:
        """Yield the samples of one shard in the order of their keys.

        Raises:
            SourceError: If a file has gone since the folder was walked.
        """
        label_of = {name: label for label, name in enumerate(self.classes)}
        for i in part_of(self._rows, shard):
            key = self.keys[i]
            side_car = (self.root / key).with_suffix(".json")
            annotation = side_car.read_bytes() if side_car.is_file() else None
            label = label_of[key.partition("/")[0]] if "/" in key else None
            yield Sample(key, _read_file(self.root / key), label, annotation)

    def fingerprint(self) -> str:
        """Return a digest of the images' keys and sizes, not of their contents."""
        return digest(self.kind, ((key, (self.root / key).stat().st_size) for key in self.keys))

    def index(self) -> "FolderIndex":
        """Return random access to the files."""
        return FolderIndex(self)


class FolderIndex:
    """Random access to the images of a folder; holds their keys only."""

    def __init__(self, source: FolderSource) -> None:
        label_of = {name: label for label, name in enumerate(source.classes)}
        labels = (label_of.get(k.partition("/")[0], -1) if "/" in k else -1 for k in source.keys)
        self.keys = source.keys
        self.labels = np.fromiter(labels, dtype=np.int64, count=len(source.keys))
        self._root = source.root

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def read(self, i: int) -> bytes:
        """Return the encoded bytes of image `i`."""
        return _read_file(self._root / self.keys[i])


def _image_files(root: Path) -> Iterator[str]:
    # Links are followed: data sets are often assembled from links to another disk.
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = Path(folder).relative_to(root)
        for name in files:
            if not name.startswith(".") and extension_by_name(name):
                yield (prefix / name).as_posix()


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read ({error.strerror}); it was there when its folder was opened. "
            "Put it back, or open the folder again."
        ) from error
