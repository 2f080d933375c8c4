"""The files in a tar, read strictly: what is damaged, missing or not understood is an error."""

import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any, NamedTuple

from ccrop_pipeline.base.tars import NOT_IN_KEYS, TarHeader
from ccrop_pipeline.errors import SourceError
from ccrop_pipeline.images.decode import IMAGE_EXTENSIONS, extension_by_content
from ccrop_pipeline.images.source import NO_EXTENSION, Ignored, is_text

_READ = IMAGE_EXTENSIONS | {"cls", "json"}
# What tells something of the header after it is read whole: long names and PAX records.
_LONG = b"LKxgX"
_MAX_LONG = 1 << 20  # bytes
_MAX_SKIPPED = 1 << 62  # bytes: added to the offset of a header, still an offset
# An image of twice the pixels that Pillow warns of, 3 x 16 bits each, has 1.07e9.
_MAX_FILE = 1_100_000_000  # bytes
# Holes cost memory and no bytes of the tar: so many are allowed, or so many for each byte.
_MAX_HOLES = 1 << 24
_HOLES_A_BYTE = 64


class Extent(NamedTuple):
    """Where the bytes of a file are in a tar.

    Attributes:
        offset: Of the first one that is stored.
        size: How many are stored.
        runs: Of a sparse file: place and size of each run of stored bytes, and last the size of
            the file and 0. Empty for others.
    """

    offset: int
    size: int
    runs: tuple[tuple[int, int], ...] = ()

    def filled(self, stored: bytes) -> bytes:
        """Return the file that the stored bytes make up, with zeros for its holes."""
        if not self.runs:
            return stored
        whole, at = bytearray(self.runs[-1][0]), 0
        for place, size in self.runs:
            whole[place : place + size] = stored[at : at + size]
            at += size
        return bytes(whole)


class TarEntry(NamedTuple):
    """A file that may be part of a sample, or a link to one.

    Attributes:
        key: The path up to the first dot of its last part, as in WebDataset.
        extension: The rest, in lower case; empty where there is no dot.
        name: The path.
        extent: Where its bytes are.
        target: Path of what it is a link to; None: no link.
    """

    key: str
    extension: str
    name: str
    extent: Extent
    target: str | None

    @property
    def is_read(self) -> bool:
        """Whether it is an image, a label or an annotation."""
        return self.extension in _READ


def extension_of(entry: TarEntry, beginning: bytes, ignored: Ignored) -> str:
    """Return the extension of a member; where its name has none that of its content, or nothing."""
    extension = entry.extension or extension_by_content(beginning) or ""
    if not extension:
        ignored.add(NO_EXTENSION, entry.name)
    return extension


_EOF, _EMPTY = tarfile.EOFHeaderError, tarfile.EmptyHeaderError  # type: ignore[attr-defined]

# What tarfile lets through of a header that makes no sense.
_STUMBLES = (tarfile.TarError, ValueError, LookupError, TypeError, RecursionError, MemoryError)


class _StrictHeader(TarHeader):
    # Between members tarfile takes a damaged header, or nothing at all, for the end of the archive.
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_StrictHeader":
        if len(buf) < tarfile.BLOCKSIZE and not any(buf):
            raise _EMPTY("less than a block of zeros")
        header = super().frombuf(buf, encoding, errors)
        _expect_size(header.size, _MAX_LONG if header.type in _LONG else _MAX_SKIPPED)
        return header

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_StrictHeader":
        assert tarfile.fileobj is not None
        offset = tarfile.fileobj.tell()
        try:
            header = super().fromtarfile(tarfile)
            _expect_size(header.size, _MAX_SKIPPED)  # PAX records may have changed it
        except (_EOF, _EMPTY, _DamagedError):
            raise
        except _STUMBLES as error:
            raise _DamagedError(f"damaged or cut off at byte {offset}: {error}") from error
        return header


class _DamagedError(tarfile.ReadError):
    pass


def _expect_size(size: int, below: int) -> None:
    if not 0 <= size < below:
        raise ValueError(f"a size of {size} bytes")


def open_entries(path: Path | None = None, file: Any = None) -> AbstractContextManager[Any]:
    """Open a tar at a path or in a file object, for `entries`.

    The file object needs `read` and `tell`, and `seek` to places that lie ahead.
    """
    # After its end another tar may follow, as in `cat a.tar b.tar`: zeros are ignored.
    return tarfile.open(
        path, "r:", file, tarinfo=_StrictHeader, encoding="utf-8", ignore_zeros=True
    )


def entries(tar: tarfile.TarFile, where: str, ignored: Ignored) -> Iterator[TarEntry]:
    """Yield the files, and links to files, of a tar that `open_entries` opened, in stored order.

    Args:
        tar: The tar.
        where: Its name, for people.
        ignored: Counts what is hidden.

    Raises:
        SourceError: If one cannot be read right: its name is not UTF-8, it is sparse or larger
            beyond measure, or no file that is known.
        tarfile.TarError: If the tar is damaged or cut off.
    """
    end = 0
    while (header := tar.next()) is not None:
        # TarFile remembers every header it saw; a shard may have a million.
        tar.members.clear()  # type: ignore[attr-defined]
        end = tar.offset
        if entry := _entry(header, end, where, ignored):
            yield entry
    # POSIX ends a tar with blocks of zeros.
    if tar.offset == end:
        raise tarfile.ReadError(f"damaged or cut off at byte {end}")


def _entry(header: tarfile.TarInfo, end: int, where: str, ignored: Ignored) -> TarEntry | None:
    folder, slash, last = header.name.rpartition("/")
    stem, dot, extension = last.partition(".")
    key, extension = folder + slash + stem, extension.lower()
    link = header.islnk() or header.issym()
    if header.isdir() or not (dot or header.isreg()):
        return None
    if not stem:
        ignored.add("hidden", header.name)
        return None
    if dot and extension not in _READ:
        # Samples are told apart by these as well; their content is nobody's concern.
        if not (header.isfile() and is_text(header.name)):
            return None
        return TarEntry(key, extension, header.name, Extent(header.offset_data, 0), None)
    subject = f"member {ascii(header.name)[1:-1]} of {where}"
    if not is_text(header.name):
        raw = header.name.encode(errors="surrogateescape")
        raise SourceError(
            f"the name {raw!r} of a member of {where} is not UTF-8, so no key can be made of it. "
            "Rename the file and pack it again."
        )
    if NOT_IN_KEYS.search(key):
        raise SourceError(
            f"{subject} has a control character in its name, and keys have none. Rename the file "
            "and pack it again."
        )
    if not (header.isfile() or link):
        raise SourceError(f"{subject} is no file (type {header.type!r}). Leave it out.")
    extent, target = Extent(header.offset_data, 0), None
    if link:
        beside = "" if header.islnk() else dirname(header.name)
        target = normpath(join(beside, header.linkname))
    else:
        extent = _extent(header, end, subject)
    return TarEntry(key, extension, header.name, extent, target)


def _extent(header: tarfile.TarInfo, end: int, subject: str) -> Extent:
    size, stored = header.size, header.size
    runs: tuple[tuple[int, int], ...] = ()
    if header.issparse():
        found: Any = header.sparse
        runs = (*((place, length) for place, length in found if length), (size, 0))
        stored, last = sum(length for _, length in runs), 0
        blocks = (end - header.offset_data) // tarfile.BLOCKSIZE
        wrong = -(-stored // tarfile.BLOCKSIZE) != blocks
        for place, length in runs:
            wrong = wrong or place < last or length < 0
            last = place + length
        if wrong:
            raise SourceError(f"{subject} has a wrong map of its holes. Pack it again.")
    if size > _MAX_FILE or size - stored > max(_MAX_HOLES, _HOLES_A_BYTE * stored):
        raise SourceError(
            f"{subject} has {size} bytes, {stored} of them stored: more than an image of its "
            "kind can have. Leave it out."
        )
    return Extent(header.offset_data, stored, runs)
