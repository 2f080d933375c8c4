"""Walking through the headers of a tar: where each sample's image, label and JSON lie."""

import os
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.sources.formats import IMAGE_EXTENSIONS
from ccrop_pipeline.sources.source import known_label


class Extent(NamedTuple):
    """A run of bytes in a file."""

    offset: int
    size: int


class Entry(NamedTuple):
    """One sample of a tar, not yet read."""

    key: str
    image: Extent
    label: Extent | None
    annotation: Extent | None


class _Member(NamedTuple):
    key: str
    extension: str
    extent: Extent


def scan(path: Path) -> Iterator[Entry]:
    """Yield the samples of a tar in stored order, reading headers only.

    Members are grouped as WebDataset does it: the key is the path up to the first dot of its
    last part, the rest the extension, and the members of a sample follow each other.

    Raises:
        CcropError: If the tar is damaged, a sample has no image or two, or a key comes back.
    """
    seen: dict[str, int] = {}
    for position, (key, members) in enumerate(groupby(_members(path), lambda m: m.key)):
        if key in seen:
            raise CcropError(
                f"key {key!r} occurs twice in {path}: samples {seen[key]} and {position}. "
                "Files of one sample must follow each other and keys must be unique: pack again."
            )
        seen[key] = position
        yield _entry(key, members, path)


def open_tar(path: Path) -> BinaryIO:
    """Open a tar's bytes; ``CcropError`` where that fails."""
    try:
        return path.open("rb")
    except OSError as error:
        raise CcropError(
            f"{path} cannot be opened ({error.strerror}). Check that it is there and readable."
        ) from error


def read_extent(descriptor: int, extent: Extent, path: Path) -> bytes:
    """Return the bytes at ``extent`` without moving the file's position."""
    data = os.pread(descriptor, extent.size, extent.offset)
    if len(data) != extent.size:
        raise CcropError(
            f"{path} is cut off: {extent.size} bytes expected at {extent.offset}, "
            f"{len(data)} there. Fetch or pack it again."
        )
    return data


def read_label(descriptor: int, entry: Entry, path: Path) -> int | None:
    """Return the class index in the sample's ``.cls`` member, ``None`` without one."""
    if entry.label is None:
        return None
    text = read_extent(descriptor, entry.label, path)
    try:
        return known_label(text)
    except ValueError:
        raise CcropError(
            f"label {text[:40]!r} of key {entry.key!r} in {path} is not a whole number: "
            "a .cls member holds one class index."
        ) from None


def _members(path: Path) -> Iterator[_Member]:
    try:
        with tarfile.open(path, "r:") as tar:
            while (info := tar.next()) is not None:
                # TarFile remembers every header it saw; a shard may have a million.
                tar.members.clear()  # type: ignore[attr-defined]
                folder, slash, name = info.name.rpartition("/")
                stem, dot, extension = name.partition(".")
                if info.isfile() and stem and dot:
                    extent = Extent(info.offset_data, info.size)
                    yield _Member(folder + slash + stem, extension.lower(), extent)
            _check_end(path, tar.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise CcropError(
            f"{path} cannot be read as an uncompressed tar ({error}). Fetch or pack it again."
        ) from error


def _check_end(path: Path, offset: int) -> None:
    # Between members tarfile takes a damaged header, or nothing at all, for the end of the
    # archive; POSIX ends one with blocks of zeros.
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"damaged or cut off at byte {offset}")


def _entry(key: str, members: Iterable[_Member], path: Path) -> Entry:
    parts: dict[str, Extent] = {}
    for member in members:
        if member.extension in parts:
            raise CcropError(f"{path} holds two files {key}.{member.extension}: remove one.")
        parts[member.extension] = member.extent
    images = [extent for extension, extent in parts.items() if extension in IMAGE_EXTENSIONS]
    if len(images) != 1:
        raise CcropError(
            f"sample {key!r} in {path} has {len(images)} images (members: "
            f"{', '.join('.' + extension for extension in parts)}); exactly one is needed, of "
            f"type {', '.join(sorted(IMAGE_EXTENSIONS))}."
        )
    return Entry(key, images[0], parts.get("cls"), parts.get("json"))
