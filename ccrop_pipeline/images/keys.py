"""Many keys in little memory, and the refusal of keys that occur twice."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ccrop_pipeline.errors import CcropError


class Keys(Sequence[str]):
    """An immutable list of keys in one Arrow buffer.

    A Python list would cost some 60 bytes a key more, be copied into every forked worker as
    reference counts change, and pickle slowly.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._array: Any = (
            keys._array if isinstance(keys, Keys) else pa.array(keys, pa.large_string())
        )

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._array)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        """Return the key at a position, or a list for a slice."""
        if isinstance(i, slice):
            return list(self._array[i].to_pylist())
        return str(self._array[int(i)].as_py())

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys, converted in blocks."""
        for start in range(0, len(self), 65_536):
            yield from self._array[start : start + 65_536].to_pylist()

    def first_duplicate(self) -> tuple[int, int] | None:
        """Return the positions of the first key that comes a second time, if any."""
        if pc.count_distinct(self._array).as_py() == len(self):
            return None
        seen: dict[str, int] = {}
        for i, key in enumerate(self):
            if key in seen:
                return seen[key], i
            seen[key] = i
        return None


def refuse_duplicates(
    keys: Keys, shard_of: NDArray[np.int32], shards: Sequence[str], advice: str
) -> None:
    """Raise `CcropError` with both places of the first key that occurs twice."""
    pair = keys.first_duplicate()
    if pair is None:
        return
    places = [
        f"image {i - int(np.searchsorted(shard_of, shard_of[i]))} of {shards[shard_of[i]]}"
        for i in pair
    ]
    raise CcropError(
        f"key {keys[pair[1]]!r} occurs twice: {places[0]} and {places[1]}. "
        f"Boxes meet images by key, so keys must be unique: {advice}"
    )


IMAGES_PER_SHARD = 65_536


def shard_names(name: str, count: int) -> tuple[str, ...]:
    """Name the shards of `count` images `NAME-000000`, `NAME-000001` and so on."""
    return tuple(f"{name}-{i:06d}" for i in range(-(-count // IMAGES_PER_SHARD)))


def shard_range(shards: Sequence[str], shard: str, count: int) -> range:
    """Return which of `count` images lie in `shard`.

    Raises:
        ValueError: If the source has no such shard.
    """
    start = shard_position(shards, shard) * IMAGES_PER_SHARD
    return range(start, min(start + IMAGES_PER_SHARD, count))


def shard_position(shards: Sequence[str], shard: str) -> int:
    """Return the position of `shard`; `ValueError` where there is no such shard."""
    if shard not in shards:
        raise ValueError(f"no shard {shard!r}; there are {len(shards)}: {', '.join(shards[:5])} …")
    return shards.index(shard)
