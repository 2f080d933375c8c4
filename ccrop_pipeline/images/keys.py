"""Many keys in little memory, and the refusal of keys that occur twice."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ccrop_pipeline.errors import SourceError

IMAGES_PER_SHARD = 65_536


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
    raise SourceError(
        f"key {keys[pair[1]]!r} occurs twice: {places[0]} and {places[1]}. "
        f"Boxes meet images by key, so keys must be unique: {advice}"
    )


def numbered_shards(name: str, count: int) -> dict[str, range]:
    """Cut `count` images into shards `NAME-000000`, `NAME-000001` and so on.

    Returns:
        The positions of the images of each shard.
    """
    starts = range(0, count, IMAGES_PER_SHARD)
    rows = (range(start, min(start + IMAGES_PER_SHARD, count)) for start in starts)
    return {f"{name}-{i:06d}": part for i, part in enumerate(rows)}
