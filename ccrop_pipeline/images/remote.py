"""Tar shards behind addresses or commands: read in order as they arrive, and never stored."""

import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, Any, ClassVar, NoReturn

import xxhash

from ccrop_pipeline.base.addresses import PIPE, explained, file_system, is_pipe
from ccrop_pipeline.errors import SourceError
from ccrop_pipeline.images.decode import BEGINNING
from ccrop_pipeline.images.members import entries, extension_of, open_entries
from ccrop_pipeline.images.source import (
    CLASSES_FILE,
    FINGERPRINT_END,
    Ignored,
    Sample,
    class_names,
    digest,
    part_of,
)
from ccrop_pipeline.images.streams import opened
from ccrop_pipeline.images.tar import Member, group, parse_label

_TAR_IN_COMMAND = re.compile(r"([^\s/'\"=]+)\.tar\b")
_BUFFER = 1 << 20  # bytes
_TOGETHER = 64  # shards whose ends are in memory at once for a fingerprint: 8 MiB


@dataclass(frozen=True)
class RemoteTarSource:
    """Tars that are read once through, from an object store, a web server or a command.

    Addresses are opened with fsspec, so that whatever it has a file system for is readable. From
    web servers reading goes on at the byte reached where a connection breaks; what others do then
    is up to their file systems. The output of a command (`pipe:curl …`) is read to its end, and
    the command has to succeed; however we end, its process group ends with us.

    Attributes:
        location: What was opened, as given.
        urls: Addresses, or commands after `pipe:`, one a shard, in order.
        labels_read: Of each shard that this process has read to its end, how many images have
            each label; -1 where there is none.
        ignored_read: Of each of these shards, the members that are nothing of a sample.
    """

    kind: ClassVar[str] = "tar"
    random_access: ClassVar[bool] = False
    location: str
    urls: tuple[str, ...]
    labels_read: dict[str, Counter[int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    ignored_read: dict[str, Ignored] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def _url_of(self) -> dict[str, str]:
        return dict(zip(self.shards, self.urls, strict=True))

    @cached_property
    def shards(self) -> tuple[str, ...]:
        """Stems of the tar files; of a command, that of the last one that it names."""
        return tuple(tar_name(url).removesuffix(".tar") for url in self.urls)

    @property
    def classes(self) -> tuple[str, ...]:
        """Lines of `classes.txt` beside the first tar; none for commands."""
        if self._piped:
            return ()
        files, (path,) = located(self.urls[:1])
        beside = path.partition("?")[0].rpartition("/")[0] + "/" + CLASSES_FILE
        with explained(self.location):
            return class_names(_content(files, beside), beside)

    @property
    def _piped(self) -> bool:
        return is_pipe(self.urls[0])

    def read(self, shard: str) -> Iterator[Sample]:
        """Yield the samples of one tar in stored order.

        Raises:
            CcropError: If the tar cannot be read to its end, a sample has no image, or a key
                comes twice.
        """
        url, labels, ignored = part_of(self._url_of, shard), Counter[int](), Ignored()
        with _to_its_end(url), opened(url, command=self._piped) as stream:
            for entry in group(_members(stream, url, ignored), url, ignored):
                label = parse_label(entry.label, entry.key, url)
                labels[-1 if label is None else label] += 1
                yield Sample(entry.key, entry.image, label, entry.annotation)
        self.labels_read[shard], self.ignored_read[shard] = labels, ignored

    def fingerprint(self) -> str:
        """Return that of the same tars on a local disk; for commands, a digest of their texts.

        Raises:
            CcropError: If a tar is not there or its two ends cannot be read alone.
        """
        if self._piped:
            return digest("pipe", [(url.removeprefix(PIPE),) for url in self.urls])
        files, paths = located(self.urls)
        with explained(self.location):
            blocks = range(0, len(paths), _TOGETHER)
            ends = [end for i in blocks for end in _ends(files, paths[i : i + _TOGETHER])]
        names = [tar_name(url) for url in self.urls]
        return digest(self.kind, [(n, *end) for n, end in zip(names, ends, strict=True)])

    def index(self) -> NoReturn:
        """Refuse: what is read in order has no random access.

        Raises:
            CcropError: Always.
        """
        raise SourceError(
            f"{self.location} can only be read in order, and this needs random access. "
            "Use a streaming loader, or copy the tars to a local folder and open that."
        )


def tar_name(url: str) -> str:
    """Return the file name of the tar at an address, or of the last one a command names.

    Raises:
        SourceError: If there is none.
    """
    if is_pipe(url):
        found = _TAR_IN_COMMAND.findall(url)
        name = f"{found[-1]}.tar" if found else ""
    else:
        name = url.partition("?")[0].rpartition("/")[2]
    if not name.endswith(".tar") or name.startswith("."):
        raise SourceError(
            f"{url} names no .tar file, and shards are called by their files. Write the address "
            "of a tar, such as s3://bucket/train-{000000..000099}.tar, or a command that has "
            "its name, such as 'pipe:curl -sf https://host/train-000000.tar'."
        )
    return name


def located(urls: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the file system of addresses and their paths in it.

    Raises:
        CcropError: If there is no such file system, its package is missing, or there are two.
    """
    found = [file_system(url) for url in urls]
    files = found[0][0]
    for url, (other, _) in zip(urls, found, strict=True):
        if other is not files:
            raise SourceError(f"{urls[0]} and {url} are on two servers: open them one by one.")
    return files, [path for _, path in found]


class _Ahead:
    """A stream as a file in which one can go forward, as `open_entries` needs it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._at = stream, 0

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._at += len(data)
        return data

    def seek(self, offset: int) -> None:
        while self._at < offset and self.read(min(offset - self._at, _BUFFER)):
            pass


# Not webdataset's reader: it takes a damaged header for the end of a tar and skips members such
# as __x__/a.jpg, so it can give fewer images than the same tar read locally.
def _members(stream: IO[bytes], where: str, ignored: Ignored) -> Iterator[Member[bytes]]:
    ahead = _Ahead(stream)
    with open_entries(file=ahead) as tar:
        for entry in entries(tar, where, ignored):
            if entry.target is not None:
                raise SourceError(
                    f"member {entry.name} of {where} is a link to {entry.target}, and a tar that "
                    "is read once in order has no way back. Copy it to a local folder, or pack the "
                    "files again, with `tar --hard-dereference --dereference`."
                )
            ahead.seek(entry.extent.offset)
            stored = ahead.read(entry.extent.size)
            if len(stored) != entry.extent.size:
                raise tarfile.ReadError(f"cut off in member {entry.name}")
            if extension := extension_of(entry, stored[:BEGINNING], ignored):
                yield Member(entry.key, extension, entry.extent.filled(stored))


@contextmanager
def _to_its_end(url: str) -> Iterator[None]:
    """Turn whatever goes wrong in reading a tar into a `CcropError` that says what to do."""
    with explained(url):
        try:
            yield
        except (tarfile.TarError, EOFError) as error:
            raise SourceError(
                f"{url} cannot be read to its end as an uncompressed tar ({error}). Run again; if "
                "that does not help, upload or pack it again."
            ) from error


def _content(files: Any, path: str) -> bytes:
    """Return the content of a file that need not be there."""
    try:
        return bytes(files.cat_file(path))
    except (FileNotFoundError, PermissionError):
        return b""
    except Exception as error:
        # Stores that may not be listed forbid what is not there.
        if getattr(error, "status", None) in (401, 403):
            return b""
        raise


def _ends(files: Any, paths: list[str]) -> Iterator[tuple[int, str]]:
    """Yield size and hash of the first and last 64 KiB, as `digest_files` takes them."""
    sizes = files.sizes(paths)
    if None in sizes:
        raise SourceError(
            f"the server does not tell the size of {paths[sizes.index(None)]}. Read it through a "
            "command (pipe:curl …), or copy it to a local folder."
        )
    tails = [max(0, size - FINGERPRINT_END) for size in sizes]
    heads = [min(size, FINGERPRINT_END) for size in sizes]
    starts, stops = [0] * len(paths) + tails, heads + sizes
    parts = files.cat_ranges(paths * 2, starts, stops, on_error="raise")
    for i, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        head, tail = parts[i], parts[i + len(paths)]
        if (len(head), len(tail)) != (heads[i], heads[i]):
            raise SourceError(
                f"the server does not give parts of {path}, of which the fingerprint is made. "
                "Read it through a command (pipe:curl …), or copy it to a local folder."
            )
        yield size, xxhash.xxh3_64_hexdigest(head + tail)
