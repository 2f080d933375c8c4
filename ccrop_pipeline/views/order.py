"""The order of images in an epoch."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np


def batches_of(
    epoch: int, count: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """Rows of all batches of an epoch: a shuffle that depends on (seed, epoch) alone.

    The last images that do not fill a batch are left out, as contrastive losses and batch norm
    want equal batches; which images those are changes from epoch to epoch. Of several processes
    each has its part of every batch, in order and of equal size; what cannot be shared out
    equally is left out.

    Args:
        epoch: Number of the epoch.
        count: Number of images.
        batch_size: Images a batch, over all processes.
        seed: Seed of the run.
        rank: Number of this process.
        world_size: Number of processes.

    Returns:
        int64 (count // batch_size, batch_size // world_size).
    """
    order = np.random.default_rng((seed, epoch)).permutation(count)
    batches = order[: count // batch_size * batch_size].reshape(-1, batch_size)
    own = batch_size // world_size
    return batches[:, rank * own : (rank + 1) * own]


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
