"""Where the lookups of box sets are kept, one file for each state of a box set.

Each is named by the hash of the manifest and is in a folder of the user's own, never in the box
set: a set may come from anybody, and a cache in it could give other boxes than its shards.
"""

import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base import Location
from ccrop_pipeline.boxset.lookup import LAYOUT, BoxLookup, Rows, sorted_words, write_cache
from ccrop_pipeline.boxset.rules import Problem
from ccrop_pipeline.errors import BoxSetError, CcropError

_UNUSED_SECONDS = 30 * 86400  # after which a cache is removed when another one is built


def cache_file(place: Path, version: str) -> Path:
    """Return the path of the cache of one state of a box set in a folder."""
    return place / f"{version}.{LAYOUT}.lookup"


def open_lookup(folder: Location, version: str, rows: Rows) -> BoxLookup:
    """Open the cache of one state of a box set; build it where it is missing or damaged.

    Args:
        folder: The box set. The cache goes into the user's own folder for caches, or where that is
            read-only into one for temporary files.
        version: Changes whenever the box set changes.
        rows: Yields the tables, shard by shard; called again for each salt.

    Raises:
        CcropError: If a key occurs twice, or there is no place for the cache.
    """
    words: NDArray[np.uint64] | None = None
    failures = []
    for make_place in PLACES:
        try:
            path = cache_file(make_place(), version)
            with suppress(FileNotFoundError, BoxSetError):
                found = BoxLookup(path)
                with suppress(OSError):
                    os.utime(path)  # it is in use
                return found
            words = sorted_words(rows, where=folder) if words is None else words
            _remove_unused(path.parent)
            write_cache(path, words)
            return BoxLookup(path)
        except OSError as error:
            failures.append(str(error))
    raise CcropError(
        f"the boxes of {folder} cannot be cached: {'; '.join(failures)}. "
        "Make room, or set XDG_CACHE_HOME or TMPDIR to a folder that can be written to."
    )


def kept_lookups(version: str, problems: list[Problem]) -> list[BoxLookup]:
    """Open the caches that this machine keeps of one state of a box set; rule B032."""
    found = []
    for make_place in PLACES:
        with suppress(OSError):
            try:
                found.append(BoxLookup(cache_file(make_place(), version)))
            except BoxSetError as error:
                problems.append(Problem("B032", version, str(error)))
    return found


def _remove_unused(place: Path) -> None:
    for path in place.glob("*.lookup"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _UNUSED_SECONDS:
                path.unlink()


def _of_user() -> Path:
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise FileNotFoundError(f"there is no home folder: {error}") from error
    if not home.is_absolute():
        raise FileNotFoundError(f"XDG_CACHE_HOME is {home}; it must be an absolute path")
    place = home / "ccrop" / "boxes"
    place.parent.mkdir(parents=True, exist_ok=True)
    return _private(place)


def _temporary() -> Path:
    return _private(Path(tempfile.gettempdir()) / f"ccrop-{os.getuid()}")


PLACES = (_of_user, _temporary)


def _private(place: Path) -> Path:
    place.mkdir(mode=0o700, exist_ok=True)
    found = place.lstat()
    # Anyone may make a folder for temporary files first, and could then hand us boxes of theirs.
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{place} belongs to another user")
    if found.st_mode & 0o022:
        raise PermissionError(f"{place} can be written to by other users")
    return place
