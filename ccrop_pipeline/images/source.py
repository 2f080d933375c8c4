"""What every source of images offers: samples in order, and images by position."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import xxhash
from numpy.typing import NDArray

from ccrop_pipeline.errors import SourceError, reading

Part = TypeVar("Part")
CLASSES_FILE = "classes.txt"
# What made a folder of tars, beside them: the same call of `pack` then knows that it is complete.
RECORD = ".packed.json"
NAMED = 3  # of each kind that is ignored
NO_EXTENSION = "without extension"  # one of these kinds
FINGERPRINT_END = 65_536  # bytes of either end of a file that enter a fingerprint


class Sample(NamedTuple):
    """One image as it is stored.

    Attributes:
        key: Stable name of the image in its source.
        image: Encoded bytes, never decoded here.
        label: Class index, `None` where unknown.
        annotation: Raw JSON beside the image, `None` where there is none.
    """

    key: str
    image: bytes
    label: int | None
    annotation: bytes | None = None


class Ignored:
    """What is beside the images of a source and not read, counted by kind.

    Attributes:
        counts: Number of files or folders of each kind: an extension, or what is wrong with them.
        first: The first few names of each kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one of them."""
        self.counts[kind] += 1
        if len(names := self.first.setdefault(kind, [])) < NAMED:
            names.append(name)

    def __add__(self, other: "Ignored") -> "Ignored":
        """Return what is in either."""
        both = Ignored()
        both.counts = self.counts + other.counts
        for kind in both.counts:
            names = self.first.get(kind, []) + other.first.get(kind, [])
            both.first[kind] = names[:NAMED]
        return both

    def __str__(self) -> str:
        """Return the counts and first names, or nothing."""
        return "; ".join(
            f"{of_kind(count, kind)} ({', '.join(self.first[kind])}"
            f"{', …' if count > len(self.first[kind]) else ''})"
            for kind, count in self.counts.most_common()
        )


def of_kind(count: int, kind: str) -> str:
    """Return how many of a kind were ignored, such as "2 broken links" and "1 broken link"."""
    if count == 1:
        kind = re.sub(r"(link|folder|file|name)s\b", r"\1", kind, count=1)
    return f"{count:,} {kind}"


class ImageIndex(Protocol):
    """Images by position, for map-style loading.

    Pickles without image bytes and may be used from forked and spawned workers.
    """

    @property
    def keys(self) -> Sequence[str]:
        """Keys in source order."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices, shape `(n,)`, -1 where unknown."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, i: int) -> bytes:
        """Return the encoded bytes of image `i`."""


@runtime_checkable
class Source(Protocol):
    """A set of images cut into named shards."""

    @property
    def kind(self) -> str:
        """`tar`, `folder`, `parquet`, `torchvision` or `scenes`."""

    @property
    def random_access(self) -> bool:
        """Whether `index` is possible, or images can only be read in order."""

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
            SourceError: If two images have one key, or there is no random access.
        """


def part_of(parts: Mapping[str, Part], shard: str) -> Part:
    """Return what a source knows of a shard, such as its file.

    Raises:
        ValueError: If there is no such shard.
    """
    if shard not in parts:
        some = ", ".join(islice(parts, 5))
        raise ValueError(f"no shard {shard!r}; there are {len(parts)}: {some} ...")
    return parts[shard]


def image_hash(image: bytes) -> int:
    """Return the unsigned 64-bit xxh3 of encoded image bytes."""
    return int(xxhash.xxh3_64_intdigest(image))


def digest(kind: str, entries: Iterable[tuple[str | int, ...]]) -> str:
    """Hash what tells a source apart, in order, into a fingerprint of 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps([kind, list(entries)]).encode()).hexdigest()


def digest_files(kind: str, paths: Iterable[Path]) -> str:
    """Return a fingerprint of shard files: names, sizes, first and last 64 KiB of each.

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
    """Read a label as data sets store it: nothing or a negative number means unknown.

    Raises:
        ValueError: If it is no whole number of 63 bits.
    """
    if value is None or int(value) < 0:
        return None
    if int(value) >= 1 << 63:
        raise ValueError(f"label {value} has more than 63 bits")
    return int(value)


def is_text(name: str) -> bool:
    """Tell whether a file name is UTF-8; Python keeps other bytes as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_no_text(path: Path) -> None:
    """Refuse a path that is not UTF-8: keys, shards and box sets are text.

    Raises:
        SourceError: If it is none.
    """
    if not is_text(str(path)):
        raise SourceError(
            f"the name {os.fsencode(path)!r} is not UTF-8. Rename it, such as with `convmv`, or "
            "move it elsewhere."
        )


def read_classes(folder: Path) -> tuple[str, ...]:
    """Return the class names that are in a folder, none where there is no such file.

    Raises:
        SourceError: If the file is not UTF-8.
    """
    path = folder / CLASSES_FILE
    if not path.is_file():
        return ()
    with _reading_classes(path):
        return class_names(path.read_bytes(), path)


def class_names(content: bytes, where: str | Path) -> tuple[str, ...]:
    """Return the class names in the content of a file.

    Raises:
        SourceError: If it is not UTF-8.
    """
    with _reading_classes(where):
        lines = content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    return tuple(lines if lines[-1] else lines[:-1])


def _reading_classes(where: str | Path) -> AbstractContextManager[None]:
    remedy = "Write a name a line, in UTF-8."
    return reading(where, "is no list of class names", remedy, SourceError)


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """Write class names into a folder that is not yet complete.

    Raises:
        SourceError: If one is more than a line.
    """
    for name in classes:
        if "\n" in name or "\r" in name:
            raise SourceError(f"class {name!r} has a line break in its name. Rename its folder.")
    text = "".join(f"{name}\n" for name in classes)
    (folder / CLASSES_FILE).write_text(text, encoding="utf-8", newline="")


def true_boxes(annotation: bytes | None) -> NDArray[np.float64]:
    """Read the true boxes of one image.

    Args:
        annotation: JSON object whose `boxes` is a list of `[h0, w0, h1, w1]`: top, left,
            bottom and right edge, normalised by the image's height and width. None, as of most
            samples, or an empty one has no box.

    Returns:
        Boxes `x_min, y_min, x_max, y_max`, shape `(m, 4)`, values in [0, 1].

    Raises:
        SourceError: If there is no such list, or one of its boxes is none.
    """
    if not annotation:
        return np.empty((0, 4))
    try:
        rows = json.loads(annotation)["boxes"]
        edges = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"annotation {annotation[:60]!r} holds no boxes ({type(error).__name__}: {error}); "
            'expected {"boxes": [[h0, w0, h1, w1], …]} with normalised edges.'
        ) from error
    boxes = edges[:, [1, 0, 3, 2]]
    proper = (boxes[:, :2] < boxes[:, 2:]).all(axis=1) & ((boxes >= 0) & (boxes <= 1)).all(axis=1)
    if not proper.all():
        raise SourceError(
            f"true box {edges[~proper][0].tolist()} is not [h0, w0, h1, w1] with "
            "0 <= h0 < h1 <= 1 and 0 <= w0 < w1 <= 1."
        )
    return boxes


def spread_samples(source: Source, most: int) -> Iterator[Sample]:
    """Yield some images: evenly spread over a source, the first where it is read in order."""
    if not source.random_access:
        yield from islice(chain.from_iterable(map(source.read, source.shards)), most)
        return
    index = source.index()
    yield from samples_at(index, spread(len(index), most))


def spread(count: int, most: int) -> list[int]:
    """Return up to `most` of the positions below `count`, evenly spread."""
    number = min(count, most)
    return [place * count // number for place in range(number)]


def samples_at(index: ImageIndex, places: Iterable[int]) -> Iterator[Sample]:
    """Yield the images at these positions; without annotations, which an index does not give."""
    for place in places:
        yield Sample(index.keys[place], index.read(place), known_label(index.labels[place]))
