"""What a loader hands to a training step."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccrop_pipeline.crops import key_hash


@dataclass
class Batch:
    """Crops of one batch of images, not yet augmented.

    Attributes:
        views: One tensor a group of views, uint8 (V, B, 3, S, S) with the group's number V and
            side S of views; on the CPU, or where a resident data set lies.
        key_hashes: int64 (B,), the bits of the unsigned hash of each key.
        labels: int64 (B,), -1 where an image has none.
        unreadable: Number of images of the batch that could not be decoded and are grey.
    """

    views: tuple[Tensor, ...]
    key_hashes: Tensor
    labels: Tensor
    unreadable: int = 0

    def pin_memory(self) -> "Batch":
        """Lets a `DataLoader` pin the crops for asynchronous copies to a GPU."""
        self.views = tuple(group.pin_memory() for group in self.views)
        return self

    @property
    def hashes(self) -> np.ndarray:
        """Key hashes as uint64 (B,), the type the random numbers are drawn from."""
        return self.key_hashes.numpy().view(np.uint64)


def hash_keys(keys: list[str]) -> np.ndarray:
    """Hashes of keys as uint64 (n,)."""
    return np.fromiter((key_hash(key) for key in keys), np.uint64, len(keys))


def make_batch(
    views: tuple[Tensor, ...], hashes: np.ndarray, labels: np.ndarray, unreadable: int = 0
) -> Batch:
    """A batch from views, hashes uint64 (B,) and labels int64 (B,), none of them copied."""
    return Batch(
        views, torch.from_numpy(hashes.view(np.int64)), torch.from_numpy(labels), unreadable
    )
