"""Boxes by key from a memory-mapped cache file: little memory, shared by all workers.

A key is found by its own text, and else by what the tars of its folder call the image: boxes of
`cats/1.jpg` in a folder are those of `cats/1` in the tars that were packed from it, and the other
way round, where no second key could be meant.

The file is of little-endian words of 64 bits: four with the SHA-256 of its name and all that
follows; the salt of the hashes, the number n of keys, the number m of boxes to choose from or 0 for
a box set without choices, the number p of keys that are called otherwise in tars; then the hashes
of the keys in rising order, the row of each in the box set, and the four float32 edges of its box;
the hashes of the p names in tars in rising order, and the place of each among the n; with choices
also n + 1 words that say where those of each key begin, and the edges of all m.
"""

import hashlib
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base import Location
from ccrop_pipeline.base.files import remove_leftovers, written_aside
from ccrop_pipeline.base.tars import name_in_tar
from ccrop_pipeline.boxset.boxes import FULL_BOX, Choices
from ccrop_pipeline.boxset.table import BoxTable
from ccrop_pipeline.errors import BoxSetError

Rows = Callable[[], Iterable[BoxTable]]
# Of the file above. Caches outlive programs, so that another layout needs another number.
LAYOUT = 4
_DIGEST = 4  # words
_SALTS = 4


def key_hashes(keys: Sequence[str], salt: int) -> NDArray[np.uint64]:
    """Hash keys with BLAKE2b to 64 bits; another salt gives an unrelated hash.

    Returns:
        uint64 (n,).
    """
    blake2b, salt_bytes = hashlib.blake2b, salt.to_bytes(8, "little")
    digests = [
        # A key that is no Unicode text is in no box set: it must be missing, not an error.
        blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt_bytes).digest()
        for key in keys
    ]
    return np.frombuffer(b"".join(digests), "<u8")


class BoxLookup:
    """Finds boxes by key. Pickled as a path alone, so that every worker maps the same file.

    A key that is not in the box set is taken for another with a probability of n / 2**64.

    Args:
        path: The cache file.

    Raises:
        BoxSetError: If the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        words = np.empty(0, "<u8")
        # Not what hangs when it is opened, and no link to another place.
        if stat.S_ISREG(path.lstat().st_mode):
            with suppress(ValueError):  # no whole number of words
                words = np.asarray(np.memmap(path, "<u8", "r"))
        if len(words) <= _DIGEST or words[:_DIGEST].tobytes() != _digest(path, words[_DIGEST:]):
            raise BoxSetError(f"the lookup cache {path} is damaged. Delete it: it is built again.")
        words = words[_DIGEST:]
        self._salt, n, m, p = map(int, words[:4])
        ends = np.cumsum([4, n, n, 2 * n, p, p, n + 1])
        hashes, self._rows, boxes, names, named, starts = np.split(words, ends)[1:7]
        self._keys = _Keys(hashes, names, named.view("<i8"))
        self._boxes = _as_boxes(boxes)
        choices = _as_boxes(words[ends[-1] :])
        self._choices = Choices(choices, starts.view("<i8")) if m else None

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self._keys.hashes)

    def __reduce__(self) -> tuple[type["BoxLookup"], tuple[Path]]:
        """Pickle the path."""
        return BoxLookup, (self.path,)

    def find(
        self, keys: Sequence[str], *, among: "BoxLookup | None" = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Look up the boxes of keys.

        Args:
            keys: n keys, repeated or not. Of two of them that could only be told apart by what
                tars leave out, such as `1.jpg` and `1.png`, neither is found by its name in tars.
            among: All keys that these are some of, so that what is found does not depend on which
                are looked up together.

        Returns:
            Boxes, float32 (n, 4), the full box for a key that is not there; and whether each
            key is there, bool (n,).
        """
        boxes = np.full((len(keys), 4), FULL_BOX, np.float32)
        places, found = self._places(keys, among)
        boxes[found] = self._boxes[places[found]]
        return boxes, found

    def rows(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Look up the rows of keys in the box set, counted over all its shards.

        Returns:
            int64 (n,), -1 for a key that is not there.
        """
        places, found = self._places(keys)
        rows = np.full(len(keys), -1, np.int64)
        rows[found] = self._rows[places[found]]
        return rows

    def choices(self, keys: Sequence[str]) -> Choices | None:
        """Look up the boxes that a sampler may draw from.

        Args:
            keys: n keys, repeated or not.

        Returns:
            n rows, the full box alone for a key that is not there; None for a box set with one
            box an image.
        """
        if self._choices is None:
            return None
        places, found = self._places(keys)
        known = self._choices.take(places[found])
        counts = np.ones(len(keys), np.int64)
        counts[found] = known.counts
        boxes = np.full((counts.sum(), 4), FULL_BOX, np.float32)
        boxes[np.repeat(found, counts)] = known.boxes
        return Choices(boxes, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def agrees_with(self, table: BoxTable, first: int) -> bool:
        """Tell whether the rows of a table are here as they are there.

        Args:
            table: Rows of the box set.
            first: Number of the first one in the box set.
        """
        boxes, _ = self.find(table.keys)
        choices = self.choices(table.keys)
        same = bool((boxes == table.boxes).all())
        same &= self.rows(table.keys).tolist() == list(range(first, first + len(table)))
        if choices is None or table.choices is None:
            return same and choices is table.choices
        return same and all(
            np.array_equal(getattr(choices, name), getattr(table.choices, name))
            for name in ("boxes", "starts")
        )

    def common(self, other: "BoxLookup") -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return the boxes of all keys that two lookups share: those here and those there, (n, 4).

        None where they cannot be compared, as keys of one of them once had equal hashes.
        """
        if self._salt != other._salt:
            return None
        places = _partners(self._keys, other._keys)
        found = places >= 0
        return self._boxes[found], other._boxes[places[found]]

    def _places(
        self, keys: Sequence[str], among: "BoxLookup | None" = None
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        hashes = key_hashes(keys, self._salt)
        places, found = _search(self._keys.hashes, hashes)
        if not found.all():
            if among is not None and among._salt == self._salt:
                asked = among._keys
            else:
                # Equal keys are one image, and have equal hashes.
                every, first = np.unique(hashes, return_index=True)
                asked = _Keys(every, *_names(every, _called(keys, self._salt)[first]))
            places = _partners(asked, self._keys)[np.searchsorted(asked.hashes, hashes)]
            found = places >= 0
        return places, found


class _Keys(NamedTuple):
    """Hashes of keys in rising order; of their names in tars; the place of each name's key."""

    hashes: NDArray[np.uint64]
    names: NDArray[np.uint64]
    named: NDArray[np.int64]


def _partners(one: _Keys, other: _Keys) -> NDArray[np.int64]:
    """Return the place in the other of each key of the one, -1 without; none is met twice.

    A key belongs to an equal one. Two others belong together if one is the name in tars of the
    other and of no second key beside it, and neither has an equal key.
    """
    places, equal = _search(other.hashes, one.hashes)
    places[~equal] = -1
    at, is_key = _search(other.hashes, one.names)
    is_key &= ~equal[one.named]
    called, is_name = _search(other.names, one.hashes)
    theirs = other.named[called[is_name]]
    is_name[is_name] = free = ~_search(one.hashes, other.hashes[theirs])[1]
    places[one.named[is_key]] = at[is_key]
    places[is_name] = theirs[free]
    return places


def _search(
    hashes: NDArray[np.uint64], wanted: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the place of each among rising hashes, and whether it is one of them."""
    places = np.searchsorted(hashes, wanted)
    found = places < len(hashes)
    found[found] = hashes[places[found]] == wanted[found]
    return places, found


def _as_boxes(words: NDArray[np.uint64]) -> NDArray[np.float32]:
    return words.view("<f4").reshape(-1, 4)


def _digest(path: Path, words: NDArray[np.uint64]) -> bytes:
    digest = hashlib.sha256(path.name.encode())
    digest.update(np.ascontiguousarray(words).data)
    return digest.digest()


def write_cache(path: Path, words: NDArray[np.uint64]) -> None:
    """Write a cache file of what `sorted_words` gives, in the place of a damaged one as well."""
    remove_leftovers(path.parent)
    with written_aside(path, replace=True) as aside, aside.open("wb") as file:
        file.write(_digest(path, words))
        # Not by `tofile`, which says nothing of a disk that is full.
        file.write(np.ascontiguousarray(words).data)


def sorted_words(
    rows: Rows,
    hashed: Callable[[Sequence[str], int], NDArray[np.uint64]] = key_hashes,
    *,
    where: Location = "the box set",
) -> NDArray[np.uint64]:
    """Build the content of the cache file with the first salt that tells all keys apart.

    Args:
        rows: Yields the tables, shard by shard; called again for each salt.
        hashed: Hash of keys under a salt.
        where: What errors call the box set.

    Returns:
        uint64 (4 + 4n + 2p,), or with choices, m in all, (4 + 4n + 2p + n + 1 + 2m,).

    Raises:
        CcropError: If several salts in turn give equal hashes, so that keys must be equal.
    """
    for salt in range(_SALTS):
        shards = [
            (hashed(table.keys, salt), table.boxes, table.choices, _called(table.keys, salt))
            for table in rows()
        ]
        hashes = np.concatenate([np.empty(0, "<u8"), *(part for part, *_ in shards)])
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        if (hashes[1:] == hashes[:-1]).any():
            continue
        boxes = np.concatenate([np.empty((0, 4), "<f4"), *(part for _, part, *_ in shards)])
        called = np.concatenate([np.empty(0, "<u8"), *(part for *_, part in shards)])
        names, named = _names(hashes, called[order])
        parts = [hashes, order.astype("<u8"), _as_words(boxes[order]), names, named.view("<u8")]
        # A shard without rows need not tell whether the box set has choices.
        choices = [part for own, _, part, _ in shards if part is not None and len(own)]
        if sum(map(len, choices)) not in (0, len(hashes)):
            raise BoxSetError(
                f"only some shards of {where} have choices (rule B028), so what is to be drawn is "
                "not certain. Compute these boxes again."
            )
        if choices:
            ordered = Choices.joined(choices).take(order)
            parts += [ordered.starts.astype("<u8"), _as_words(ordered.boxes)]
        head = [salt, len(hashes), len(ordered.boxes) if choices else 0, len(names)]
        return np.concatenate([np.array(head, "<u8"), *parts])
    raise BoxSetError(
        f"a key occurs twice in {where} (rule B018), so its box is not certain. "
        "Validate the box set to see where, and compute it again."
    )


def _called(keys: Sequence[str], salt: int) -> NDArray[np.uint64]:
    """Return the hash of the name in tars of each key, 0 for one that is its own."""
    names = [name_in_tar(key) for key in keys]
    others = np.flatnonzero([name != key for name, key in zip(names, keys, strict=True)])
    hashes = np.zeros(len(keys), "<u8")
    hashes[others] = key_hashes([names[at] for at in others], salt)
    return hashes


def _names(
    hashes: NDArray[np.uint64], called: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the hashes of names in tars that are no keys and of one key alone, and its place."""
    names, first, times = np.unique(called, return_index=True, return_counts=True)
    sure = (times == 1) & (names != 0) & ~np.isin(names, hashes)
    return names[sure], first[sure]


def _as_words(boxes: NDArray[np.float32]) -> NDArray[np.uint64]:
    return boxes.astype("<f4").reshape(-1).view("<u8")
