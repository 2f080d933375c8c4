"""A folder of image files, with classes from its first level of folders."""

import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from ccrop_pipeline.base.tars import NOT_IN_KEYS
from ccrop_pipeline.errors import SourceError, cause, shortened
from ccrop_pipeline.images.decode import (
    BEGINNING,
    HEIF_EXTENSIONS,
    HEIF_NEEDS,
    extension_by_content,
    extension_by_name,
)
from ccrop_pipeline.images.keys import Keys, numbered_shards
from ccrop_pipeline.images.source import (
    NO_EXTENSION,
    Ignored,
    Sample,
    digest,
    is_text,
    part_of,
    refuse_no_text,
)

_DEEP = 40  # folders inside each other, of which a message shows the first
OUTWARD = "links out of the folder"
SPECIAL = "special files"


@dataclass(frozen=True)
class FolderSource:
    """Image files below a folder, keyed by relative POSIX path and sorted by it.

    The label is the position of the first-level folder among those that hold images; images
    directly in `root` have none. Files without extension are images if they begin as one.
    `FILE.json` beside `FILE.jpg` is its annotation. Links are followed to regular files and to
    folders that were not entered before, within `root`. What is passed over is in `ignored`.

    Attributes:
        location: What was opened, as given.
        root: The folder.
        follow_links: Whether links out of `root` are followed as well.
    """

    kind: ClassVar[str] = "folder"
    random_access: ClassVar[bool] = True
    location: str
    root: Path
    follow_links: bool = False

    @cached_property
    def _found(self) -> tuple[Keys, Ignored]:
        walk = _Walk(self.root, follow_links=self.follow_links)
        return Keys(walk.keys), walk.ignored

    @property
    def keys(self) -> Keys:
        """All keys; the folder is walked once."""
        return self._found[0]

    @property
    def ignored(self) -> Ignored:
        """What is in the folder beside the images."""
        return self._found[1]

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
            annotation = _read_file(side_car) if self._is_side_car(side_car) else None
            label = label_of[key.partition("/")[0]] if "/" in key else None
            yield Sample(key, _read_file(self.root / key), label, annotation)

    def _is_side_car(self, path: Path) -> bool:
        try:
            linked, found = path.is_symlink(), path.is_file()
        except OSError:  # with this ending, the name may be too long
            return False
        return found and (not linked or _is_within(path, self.root, self.follow_links))

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


class _Walk:
    """Finds the images of a folder, entering every folder once.

    Those that links name come last, so that of two ways to a folder the one without a link counts.
    """

    def __init__(self, root: Path, *, follow_links: bool) -> None:
        self.keys: list[str] = []
        self.ignored = Ignored()
        self._side_cars: list[str] = []
        self._root, self._follow = root, follow_links
        self._entered: set[tuple[int, int]] = set()
        self._links: deque[str] = deque()
        self._enter("")
        while self._links:
            name = self._links.popleft()
            if not _is_within(root / name, root, follow_links):
                self.ignored.add(OUTWARD, name)
            elif not self._enter(name):
                self.ignored.add("links to folders that are read already", name)
        self.keys.sort()
        images = {str(PurePosixPath(key).with_suffix("")) for key in self.keys if self._side_cars}
        for name in self._side_cars:
            if name.removesuffix(".json") not in images:
                self.ignored.add(".json", name)

    def _enter(self, top: str) -> bool:
        """Walk a folder; `False` if it was entered before."""
        waiting, entered = [top], False
        while waiting:
            folder = waiting.pop()
            path = self._root / folder
            try:
                status = path.stat()
                if (status.st_dev, status.st_ino) in self._entered:
                    continue
                with os.scandir(path) as listed:
                    entries = sorted(listed, key=lambda entry: entry.name)
            except OSError as error:
                shown = str(path) if len(path.parts) < _DEEP else shortened(str(path))
                raise SourceError(
                    f"{shown} cannot be listed ({cause(error)}), so that its images would be "
                    "missing. Get the right to read it, or move it out of the folder."
                ) from error
            self._entered.add((status.st_dev, status.st_ino))
            entered = True
            for entry in entries:
                self._see(entry, f"{folder}/{entry.name}" if folder else entry.name, waiting)
        return entered

    def _see(self, entry: os.DirEntry[str], name: str, waiting: list[str]) -> None:
        if entry.name.startswith(".") or name == "lost+found":
            self.ignored.add("hidden", name)
        elif entry.is_symlink():
            self._see_link(name)
        elif entry.is_dir():
            refuse_no_text(self._root / name)
            waiting.append(name)
        elif entry.is_file():
            self._see_file(name)
        else:
            self.ignored.add(SPECIAL, name)

    def _see_link(self, name: str) -> None:
        path = self._root / name
        try:
            mode = path.stat().st_mode
        except OSError:  # its target is gone, or it leads to itself
            self.ignored.add("broken links", name)
            return
        if stat.S_ISDIR(mode):
            self._links.append(name)
        elif not stat.S_ISREG(mode):
            self.ignored.add(SPECIAL, name)
        elif not _is_within(path, self._root, self._follow):
            self.ignored.add(OUTWARD, name)
        else:
            self._see_file(name)

    def _see_file(self, name: str) -> None:
        if not is_text(name):
            self.ignored.add("names not in UTF-8", name)
        elif NOT_IN_KEYS.search(name):
            self.ignored.add("names with control characters", name)
        elif extension_by_name(name) or self._is_image(name):
            self.keys.append(name)
        elif name.endswith(".json"):
            self._side_cars.append(name)
        else:
            suffix = PurePosixPath(name).suffix.lower()
            needs = f" ({HEIF_NEEDS})" if suffix[1:] in HEIF_EXTENSIONS else ""
            self.ignored.add((suffix or NO_EXTENSION) + needs, name)

    def _is_image(self, name: str) -> bool:
        if PurePosixPath(name).suffix:
            return False
        try:
            with (self._root / name).open("rb") as file:
                return extension_by_content(file.read(BEGINNING)) is not None
        except OSError:  # counted as a file without extension
            return False


def _is_within(path: Path, root: Path, follow_links: bool) -> bool:  # noqa: FBT001
    return follow_links or path.resolve().is_relative_to(root.resolve())


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read ({cause(error)}); it was there when its folder was opened. "
            "Put it back, or open the folder again."
        ) from error
