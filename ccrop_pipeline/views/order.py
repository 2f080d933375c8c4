"""The order of images in an epoch."""

import numpy as np


def batches_of(epoch: int, count: int, batch_size: int, seed: int) -> np.ndarray:
    """Rows of all batches of an epoch: a shuffle that depends on (seed, epoch) alone.

    The last images that do not fill a batch are left out, as contrastive losses and batch norm
    want equal batches; which images those are changes from epoch to epoch.

    Args:
        epoch: Number of the epoch.
        count: Number of images.
        batch_size: Images a batch.
        seed: Seed of the run.

    Returns:
        int64 (count // batch_size, batch_size).
    """
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return order[: count // batch_size * batch_size].reshape(-1, batch_size)
