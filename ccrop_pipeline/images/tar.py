"""WebDataset tar shards: `KEY.jpg` with `KEY.cls` and `KEY.json` side by side."""

import os
import resource
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from posixpath import normpath
from typing import BinaryIO, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from ccrop_pipeline.errors import SourceError, cause, counted
from ccrop_pipeline.images.decode import (
    BEGINNING,
    HEIF_EXTENSIONS,
    HEIF_NEEDS,
    IMAGE_EXTENSIONS,
)
from ccrop_pipeline.images.keys import Keys, refuse_duplicates
from ccrop_pipeline.images.members import (
    Extent,
    TarEntry,
    entries,
    extension_of,
    open_entries,
)
from ccrop_pipeline.images.source import (
    Ignored,
    Sample,
    Source,
    digest_files,
    known_label,
    part_of,
    read_classes,
)
from ccrop_pipeline.images.splits import refuse_split_keys

_MAX_OPEN = 256
_MAX_LINKS = 40  # one after the other, as Linux has it


# Where the content of a member is, or the content itself where a tar is read only once.
Content = TypeVar("Content", Extent, bytes)


class Entry(NamedTuple, Generic[Content]):
    """One sample of a tar."""

    key: str
    image: Content
    label: Content | None
    annotation: Content | None


class Member(NamedTuple, Generic[Content]):
    """One file of a tar."""

    key: str
    extension: str
    content: Content


@dataclass(frozen=True)
class TarSource:
    """Tar files, one shard each, named by their stems.

    Attributes:
        location: What was opened, as given.
        paths: The tar files, in order.
        ignored: What is beside them.
        labels_read: Of each shard that this process has read to its end, how many images have
            each label; -1 where there is none.
        ignored_read: Of each of these shards, the members that are nothing of a sample.
    """

    kind: ClassVar[str] = "tar"
    random_access: ClassVar[bool] = True
    location: str
    paths: tuple[Path, ...]
    ignored: Ignored = field(default_factory=Ignored, compare=False)
    labels_read: dict[str, Counter[int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    ignored_read: dict[str, Ignored] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def _path_of(self) -> dict[str, Path]:
        return {path.stem: path for path in self.paths}

    @cached_property
    def shards(self) -> tuple[str, ...]:
        """Stems of the tar files."""
        return tuple(path.stem for path in self.paths)

    @property
    def classes(self) -> tuple[str, ...]:
        """Lines of `classes.txt` beside the first tar."""
        return read_classes(self.paths[0].parent)

    def read(self, shard: str) -> Iterator[Sample]:
        """Yield the samples of one tar in stored order.

        Raises:
            SourceError: If the tar is damaged, a sample has no image, or a key comes twice.
        """
        path, labels, ignored = part_of(self._path_of, shard), Counter[int](), Ignored()
        with open_tar(path) as file:
            for entry in scan(path, ignored):
                sample = _sample(file.fileno(), entry, path)
                labels[-1 if sample.label is None else sample.label] += 1
                yield sample
        self.labels_read[shard], self.ignored_read[shard] = labels, ignored

    def fingerprint(self) -> str:
        """Return a digest of the tars' names, sizes, beginnings and ends, not of all contents."""
        return digest_files(self.kind, self.paths)

    def index(self) -> "TarIndex":
        """Scan all headers and return random access by offset.

        Raises:
            SourceError: If as `read`, and if two tars hold the same key.
        """
        keys: list[str] = []
        extents: list[Extent] = []
        labels: list[int] = []
        shard_of: list[int] = []
        for position, path in enumerate(self.paths):
            before, ignored = len(labels), Ignored()
            with open_tar(path) as file:
                for entry in scan(path, ignored):
                    label = read_label(file.fileno(), entry, path)
                    keys.append(entry.key)
                    extents.append(entry.image)
                    labels.append(-1 if label is None else label)
                    shard_of.append(position)
            self.labels_read[path.stem] = Counter(labels[before:])
            self.ignored_read[path.stem] = ignored
        index = TarIndex(self.paths, Keys(keys), extents, labels, shard_of)
        refuse_split_keys(index.keys, self.location)
        refuse_duplicates(
            index.keys, index.shard_of, [str(path) for path in self.paths], _own_keys(self)
        )
        return index


def refuse_wrong_keys(source: Source) -> None:
    """Refuse tars whose keys start again in each, or are in folders of several splits.

    Seen by the keys of the first and one of each other. Keys that come twice further on are found
    where all are read: by `index`, by `pack`, and when a box set is validated or its boxes are
    looked up.

    Raises:
        SourceError: If one of them begins with a key of the first, or as another one does; or if
            there are several splits.
    """
    if not isinstance(source, TarSource):
        return
    first, *others = source.paths
    places = dict.fromkeys((entry.key for entry in scan(first)), first)
    for path in others:
        entry = next(scan(path), None)
        if entry and places.setdefault(entry.key, path) != path:
            raise SourceError(
                f"key {entry.key!r} is in {places[entry.key]} and in {path}. Boxes meet images by "
                f"key, so keys must be unique: {_own_keys(source)}"
            )
    refuse_split_keys(places, source.location)


def _own_keys(source: TarSource) -> str:
    return (
        "rename one of them, or give all the name of their shard with "
        f"`ccrop data pack {source.location} NEW --keys shard/key`."
    )


class TarIndex:
    """Random access to the images of several tars.

    `read` never moves a file position, so forked workers may share the descriptors; a
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
        self._extents = np.array([e[:2] for e in extents], dtype=np.int64).reshape(-1, 2)
        self._runs = {i: extent.runs for i, extent in enumerate(extents) if extent.runs}
        self._paths = paths
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def read(self, i: int) -> bytes:
        """Return the encoded bytes of image `i`."""
        shard = int(self.shard_of[i])
        offset, size = self._extents[i].tolist()
        extent = Extent(offset, size, self._runs.get(i, ()))
        if shard not in self._open and len(self._open) < _most_open():
            with open_tar(self._paths[shard]) as file:
                self._open[shard] = os.dup(file.fileno())
        if shard in self._open:
            return read_extent(self._open[shard], extent, self._paths[shard])
        with open_tar(self._paths[shard]) as file:
            return read_extent(file.fileno(), extent, self._paths[shard])

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


def _most_open() -> int:
    """Return how many descriptors an index may keep: a quarter of what the process may have."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MAX_OPEN if limit == resource.RLIM_INFINITY else min(_MAX_OPEN, limit // 4)


def open_tar(path: Path) -> BinaryIO:
    """Open a tar's bytes; `CcropError` where that fails."""
    try:
        return path.open("rb")
    except OSError as error:
        raise SourceError(
            f"{path} cannot be opened ({cause(error)}). Check that it is there and readable."
        ) from error


def read_extent(descriptor: int, extent: Extent, path: Path) -> bytes:
    """Return the bytes at `extent` without moving the file's position."""
    try:
        data = os.pread(descriptor, extent.size, extent.offset)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({cause(error)}). Check the disk.") from error
    if len(data) != extent.size:
        raise SourceError(
            f"{path} is cut off: {extent.size} bytes expected at {extent.offset}, "
            f"{len(data)} there. Fetch or pack it again."
        )
    return extent.filled(data)


def read_label(descriptor: int, entry: Entry[Extent], path: Path) -> int | None:
    """Return the class index in the sample's `.cls` member, `None` without one."""
    text = entry.label and read_extent(descriptor, entry.label, path)
    return parse_label(text, entry.key, str(path))


def parse_label(text: bytes | None, key: str, where: str) -> int | None:
    """Return the class index that a `.cls` member holds, `None` for no member."""
    try:
        return known_label(text)
    except ValueError:
        raise SourceError(
            f"label {text!r:.50} of key {key!r} in {where} is not a whole number: "
            "a .cls member holds one class index, of 63 bits at most."
        ) from None


def scan(path: Path, ignored: Ignored | None = None) -> Iterator[Entry[Extent]]:
    """Yield the samples of a tar in stored order, reading headers only.

    Args:
        path: The tar.
        ignored: Counts the members that are nothing of a sample.

    Raises:
        SourceError: If the tar is damaged, a sample has no image or two, or a key comes back.
    """
    ignored = ignored or Ignored()
    return group(_members(path, ignored), str(path), ignored)


def _members(path: Path, ignored: Ignored) -> Iterator[Member[Extent]]:
    try:
        with open_entries(path) as tar:
            files: dict[str, TarEntry] = {}
            for entry in entries(tar, str(path), ignored):
                if entry.target is not None and not files:
                    files = _files(path)
                extent = _resolved(entry, files, path).extent
                if extension := extension_of(entry, _beginning(entry, path), ignored):
                    yield Member(entry.key, extension, extent)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SourceError(
            f"{path} cannot be read as an uncompressed tar ({error}). Fetch or pack it again."
        ) from error


def _beginning(entry: TarEntry, path: Path) -> bytes:
    """Return the first bytes of a member whose name does not tell what it is."""
    if entry.extension or entry.target is not None:
        return b""
    with open_tar(path) as file:
        first = Extent(entry.extent.offset, min(entry.extent.size, BEGINNING))
        return read_extent(file.fileno(), first, path)


def _files(path: Path) -> dict[str, TarEntry]:
    with open_entries(path) as tar:
        every = entries(tar, str(path), Ignored())
        return {normpath(entry.name): entry for entry in every if entry.is_read}


def _resolved(entry: TarEntry, files: dict[str, TarEntry], path: Path) -> TarEntry:
    found: TarEntry | None = entry
    for _ in range(_MAX_LINKS):
        if found is None or found.target is None:
            break
        found = files.get(found.target)
    if found is None or found.target is not None:
        raise SourceError(
            f"member {entry.name} of {path} is a link to {entry.target}, which is no image "
            "or label in the tar. Pack the files again, with `tar --dereference`."
        )
    return found


def group(
    members: Iterable[Member[Content]], where: str, ignored: Ignored
) -> Iterator[Entry[Content]]:
    """Yield the samples that the members of the tar `where` make up.

    Members are grouped as WebDataset does it: the members of a sample follow each other. Those
    of a sample that are neither image, label nor annotation are counted as ignored.

    Raises:
        SourceError: If a sample has no image or two, or a key comes back.
    """
    seen: dict[str, int] = {}
    for position, (key, of_sample) in enumerate(groupby(members, lambda m: m.key)):
        if key in seen:
            raise SourceError(
                f"key {key!r} occurs twice in {where}: samples {seen[key]} and {position}. "
                "Files of one sample must follow each other and keys must be unique: pack again."
            )
        seen[key] = position
        yield _entry(key, of_sample, where, ignored)


def _entry(
    key: str, members: Iterable[Member[Content]], where: str, ignored: Ignored
) -> Entry[Content]:
    parts: dict[str, Content] = {}
    for member in members:
        if member.extension in parts:
            raise SourceError(f"{where} holds two files {key}.{member.extension}: remove one.")
        parts[member.extension] = member.content
    images = [content for extension, content in parts.items() if extension in IMAGE_EXTENSIONS]
    if len(images) != 1:
        needs = f" HEIC is {HEIF_NEEDS}." if parts.keys() & {*HEIF_EXTENSIONS} else ""
        dotted = ""
        if any(
            extension.rpartition(".")[2] in IMAGE_EXTENSIONS - {extension} for extension in parts
        ):
            dotted = (
                " A key ends at the first dot of a name, as WebDataset has it: pack the files with "
                "`ccrop data pack`, which writes other dots as _."
            )
        raise SourceError(
            f"sample {key!r} in {where} has {counted(len(images), 'image')} (members: "
            f"{', '.join('.' + extension for extension in parts)}); exactly one is needed, of "
            f"type {', '.join(sorted(IMAGE_EXTENSIONS))}.{needs}{dotted}"
        )
    for extension in parts.keys() - IMAGE_EXTENSIONS - {"cls", "json"}:
        ignored.add(f".{extension}", f"{key}.{extension}")
    return Entry(key, images[0], parts.get("cls"), parts.get("json"))
