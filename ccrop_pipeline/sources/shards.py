"""Cutting sources without files of their own (folders, tables, generators) into shards."""

from collections.abc import Sequence

IMAGES_PER_SHARD = 65_536


def shard_names(name: str, count: int) -> tuple[str, ...]:
    """Name the shards of ``count`` images ``NAME-000000``, ``NAME-000001`` and so on."""
    return tuple(f"{name}-{i:06d}" for i in range(-(-count // IMAGES_PER_SHARD)))


def shard_range(shards: Sequence[str], shard: str, count: int) -> range:
    """Return which of ``count`` images lie in ``shard``.

    Raises:
        ValueError: If the source has no such shard.
    """
    start = shard_position(shards, shard) * IMAGES_PER_SHARD
    return range(start, min(start + IMAGES_PER_SHARD, count))


def shard_position(shards: Sequence[str], shard: str) -> int:
    """Return the position of ``shard``; ``ValueError`` where there is no such shard."""
    if shard not in shards:
        raise ValueError(f"no shard {shard!r}; there are {len(shards)}: {', '.join(shards[:5])} …")
    return shards.index(shard)
