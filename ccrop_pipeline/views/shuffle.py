"""Shuffling what is read in order: whole shards first, then samples in a buffer."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def shards_of_rank(
    shards: Sequence[str], seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> list[str]:
    """The shards that one rank reads in an epoch, in the order of reading.

    The order of all depends on (seed, epoch) alone, so the ranks share them out exactly.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(shards))
    return [shards[at] for at in order[rank::world_size]]


def shuffled(items: Iterator[Item], size: int, random: np.random.Generator) -> Iterator[Item]:
    """Yields all items, each out of `size` that are held back; 1 keeps their order."""
    held = list(islice(items, size))
    for item in items:
        at = int(random.integers(size))
        yield held[at]
        held[at] = item
    for at in random.permutation(len(held)):
        yield held[at]
