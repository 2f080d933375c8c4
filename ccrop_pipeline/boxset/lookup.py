"""Boxes by key from a memory-mapped cache file: little memory, shared by all workers.

The file is little-endian: one word of 64 bits with the salt, the hashes of all keys in rising
order, then the four float32 edges of the box of each.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset.atomic import written_aside
from ccrop_pipeline.boxset.table import FULL_BOX
from ccrop_pipeline.errors import CcropError

Rows = Callable[[], Iterable[tuple[list[str], NDArray[np.float32]]]]
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
    """Finds boxes by key. Pickled as a path alone, so every worker maps the same file.

    A key that is not in the box set is taken for another with a probability of n / 2**64.

    Args:
        path: The cache file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        words = np.asarray(np.memmap(path, "<u8", "r"))
        n = (len(words) - 1) // 3
        self._salt = int(words[0])
        self._hashes = words[1 : 1 + n]
        self._boxes = words[1 + n :].view("<f4").reshape(n, 4)

    def __len__(self) -> int:
        """Give the number of boxes."""
        return len(self._hashes)

    def __reduce__(self) -> tuple[type["BoxLookup"], tuple[Path]]:
        """Pickle the path."""
        return BoxLookup, (self._path,)

    def find(self, keys: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Look up the boxes of keys.

        Args:
            keys: n keys, repeated or not.

        Returns:
            Boxes, float32 (n, 4), the full box for a key that is not there; and whether each
            key is there, bool (n,).
        """
        boxes = np.full((len(keys), 4), FULL_BOX, np.float32)
        hashes = key_hashes(keys, self._salt)
        places = np.searchsorted(self._hashes, hashes)
        found = places < len(self)
        found[found] = self._hashes[places[found]] == hashes[found]
        boxes[found] = self._boxes[places[found]]
        return boxes, found


def open_lookup(folder: Path, version: str, rows: Rows) -> BoxLookup:
    """Open the cache of one state of a box set, building it if it is not there.

    Args:
        folder: The box set; the cache goes into it, or where it is read-only into a folder of
            the user's own for temporary files.
        version: Changes whenever the box set changes.
        rows: Gives keys and boxes, float32 (n, 4), shard by shard; called again for each salt.

    Raises:
        CcropError: If a key stands twice, or there is no place for the cache.
    """
    words: NDArray[np.uint64] | None = None
    failures = []
    for make_place in (partial(_inside, folder), _temporary):
        try:
            path = make_place() / f"{version}.lookup"
            if not path.exists():
                words = sorted_words(rows) if words is None else words
                with written_aside(path) as aside:
                    words.tofile(aside)
            return BoxLookup(path)
        except OSError as error:
            failures.append(str(error))
    raise CcropError(
        f"the boxes of {folder} cannot be cached: {'; '.join(failures)}. "
        "Make room, or set TMPDIR to a folder that can be written to."
    )


def _inside(folder: Path) -> Path:
    place = folder / ".cache"
    place.mkdir(exist_ok=True)
    return place


def _temporary() -> Path:
    place = Path(tempfile.gettempdir()) / f"ccrop-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    # Anyone may make this folder first, and could then hand us boxes of theirs.
    if place.stat().st_uid != os.getuid():
        raise PermissionError(f"{place} belongs to another user")
    return place


def sorted_words(
    rows: Rows, hashed: Callable[[Sequence[str], int], NDArray[np.uint64]] = key_hashes
) -> NDArray[np.uint64]:
    """Build the content of the cache file with the first salt that tells all keys apart.

    Args:
        rows: Gives keys and boxes, float32 (n, 4), shard by shard; called again for each salt.
        hashed: Hash of keys under a salt.

    Returns:
        uint64 (1 + 3n,).

    Raises:
        CcropError: If several salts in turn give equal hashes, so that keys must be equal.
    """
    for salt in range(_SALTS):
        shards = [(hashed(keys, salt), boxes) for keys, boxes in rows()]
        hashes = np.concatenate([np.empty(0, "<u8"), *(part for part, _ in shards)])
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        if (hashes[1:] == hashes[:-1]).any():
            continue
        boxes = np.concatenate([np.empty((0, 4), "<f4"), *(part for _, part in shards)])
        edges = boxes[order].astype("<f4").reshape(-1).view("<u8")
        return np.concatenate([np.array([salt], "<u8"), hashes, edges])
    raise CcropError(
        "a key stands twice in the box set (rule B018), so its box is not certain. "
        "Validate the box set to see where, and compute it again."
    )
