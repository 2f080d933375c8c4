"""Full batches out of what the workers of a stream have left at their ends."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccrop_pipeline.views.batch import Batch


@dataclass
class Leftover:
    """The last images of a worker, fewer than a batch.

    Attributes:
        batch: Their crops.
        unreadable: Which of them could not be decoded, bool (B,).
    """

    batch: Batch
    unreadable: np.ndarray

    @classmethod
    def of(cls, images: list[Batch]) -> "Leftover":
        """Joins batches of one image each."""
        flags = np.array([image.unreadable > 0 for image in images])
        return cls(_joined(images, flags), flags)

    def __len__(self) -> int:
        return len(self.unreadable)

    def rows(self, first: int, end: int | None = None) -> "Leftover":
        """Some of the images."""
        at, batch = slice(first, end), self.batch
        views = tuple(group[:, at] for group in batch.views)
        some = Batch(views, batch.key_hashes[at], batch.labels[at])
        return Leftover(some, self.unreadable[at])


def whole_batches(items: Iterable[Batch | Leftover | None], size: int) -> Iterator[Batch | None]:
    """Yield full batches at once, and leftovers as soon as they make up one.

    What makes up no batch in the end is dropped.

    Args:
        items: What the workers hand over. Each item gives at most one batch. None stands for a
            full batch that nobody wants.
        size: Images a full batch; a leftover has fewer.
    """
    held: list[Leftover] = []
    for item in items:
        if not isinstance(item, Leftover):
            yield item
            continue
        lacking = size - sum(map(len, held))
        held.append(item.rows(0, lacking))
        if len(item) >= lacking:
            yield _merged(held)
            held = [item.rows(lacking)]


def _merged(leftovers: list[Leftover]) -> Batch:
    flags = np.concatenate([leftover.unreadable for leftover in leftovers])
    return _joined([leftover.batch for leftover in leftovers], flags)


def _joined(batches: list[Batch], unreadable: np.ndarray) -> Batch:
    return Batch(
        tuple(_along_images(groups) for groups in zip(*(b.views for b in batches), strict=True)),
        torch.cat([batch.key_hashes for batch in batches]),
        torch.cat([batch.labels for batch in batches]),
        int(unreadable.sum()),
    )


def _along_images(groups: tuple[Tensor, ...]) -> Tensor:
    # Joined as they lie in memory, with the channels last, which `cat` alone would not keep.
    stored = torch.cat([group.permute(0, 1, 3, 4, 2) for group in groups], dim=1)
    return stored.permute(0, 1, 4, 2, 3)
