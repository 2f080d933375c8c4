"""What all loaders have in common."""

from collections.abc import Iterator
from typing import Protocol

from ccrop_pipeline.base import Location
from ccrop_pipeline.views.batch import Batch


class Loader(Protocol):
    """Batches of views, an epoch at a time.

    What a view shows depends on (seed, epoch, key, view) alone: not on the loader, its workers
    or the batch size.
    """

    def __len__(self) -> int:
        """Batches an epoch."""

    def use_boxes(self, folder: Location | None) -> None:
        """Draws windows from the boxes of a box set from now on; None: random crops.

        Raises:
            CcropError: The box set cannot be read, or lacks images and that is an error.
        """

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, without the first `start`: a restart in its middle."""
