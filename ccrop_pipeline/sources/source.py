"""What every source of images offers: samples in order, and images by position."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import xxhash
from numpy.typing import NDArray

FINGERPRINT_END = 65_536  # bytes of either end of a file that enter a fingerprint


class Sample(NamedTuple):
    """One image as it is stored.

    Attributes:
        key: Stable name of the image in its source.
        image: Encoded bytes, never decoded here.
        label: Class index, ``None`` where unknown.
        annotation: Raw JSON that lies beside the image, ``None`` where there is none.
    """

    key: str
    image: bytes
    label: int | None
    annotation: bytes | None = None


class ImageIndex(Protocol):
    """Images by position, for map-style loading.

    Pickles without image bytes and may be used from forked and spawned workers.
    """

    @property
    def keys(self) -> Sequence[str]:
        """Keys in source order."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices, shape ``(n,)``, -1 where unknown."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, i: int) -> bytes:
        """Return the encoded bytes of image ``i``."""


@runtime_checkable
class Source(Protocol):
    """A set of images cut into named shards."""

    @property
    def kind(self) -> str:
        """``tar``, ``folder``, ``parquet``, ``torchvision`` or ``scenes``."""

    @property
    def random_access(self) -> bool:
        """Whether ``index`` is possible, or images can only be read in order."""

    @property
    def location(self) -> str:
        """Where the images come from, for people."""

    @property
    def shards(self) -> tuple[str, ...]:
        """Shard names in order; unique."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label, empty where unknown."""

    def read(self, shard: str) -> Iterator[Sample]:
        """Yield the samples of one shard in stored order."""

    def fingerprint(self) -> str:
        """Return a digest of names, sizes and samples of the contents that survives a move."""

    def index(self) -> ImageIndex:
        """Return random access to all images.

        Raises:
            CcropError: If two images have one key, or there is no random access.
        """


def image_hash(image: bytes) -> int:
    """Return the unsigned 64-bit xxh3 of encoded image bytes."""
    return int(xxhash.xxh3_64_intdigest(image))


def digest(kind: str, entries: Iterable[tuple[str | int, ...]]) -> str:
    """Hash what tells a source apart, in order, into a fingerprint of 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps([kind, list(entries)]).encode()).hexdigest()


def digest_files(kind: str, paths: Iterable[Path]) -> str:
    """Fingerprint of shard files: their names, sizes, and the first and last 64 KiB of each.

    Names and sizes alone do not do: tars are padded to 10 KiB, so that one image more or less
    often leaves the size as it was.
    """
    return digest(kind, (_file_entry(path) for path in paths))


def _file_entry(path: Path) -> tuple[str, int, str]:
    ends = xxhash.xxh3_64()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        for start in (0, max(0, size - FINGERPRINT_END)):
            file.seek(start)
            ends.update(file.read(FINGERPRINT_END))
    return path.name, size, ends.hexdigest()


def known_label(value: Any) -> int | None:
    """Read a label as data sets store it: nothing or a negative number means unknown."""
    return None if value is None or int(value) < 0 else int(value)
