"""Views by random access: any indexed source, shuffled as a whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.sources import ImageIndex
from ccrop_pipeline.views.batch import Batch, hash_keys, make_batch
from ccrop_pipeline.views.boxes import MissingBoxes, SharedBoxes, join_boxes
from ccrop_pipeline.views.cutter import ViewCutter


class MapViews(Dataset[Batch]):
    """A data set of views that is read a batch at a time.

    Args:
        index: Images by position.
        cutter: Size, number and seed of the views.
        params: How windows are drawn once there are boxes.
    """

    def __init__(self, index: ImageIndex, cutter: ViewCutter, params: CropParams) -> None:
        self.index = index
        self.cutter = cutter
        self.boxes = SharedBoxes(len(index), params)
        self._hashes = hash_keys(list(index.keys))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> Batch:
        return self.__getitems__([row])

    def __getitems__(self, rows: list[int]) -> Batch:
        """Views of the images at `rows`, for the current epoch and boxes."""
        at = np.asarray(rows)
        crops, unreadable = self.cutter.cut(
            [self.index.read(row) for row in rows],
            [self.index.keys[row] for row in rows],
            self._hashes[at],
            self.boxes.of(at),
            self.boxes.epoch,
            self.boxes.params,
        )
        return make_batch(crops, self._hashes[at], self.index.labels[at], unreadable)


class EpochBatches(Sampler[list[int]]):
    """Batches of a whole epoch in an order that depends on (seed, epoch) alone.

    The last images that do not fill a batch are left out, as contrastive losses and batch
    norm want equal batches; which images those are changes from epoch to epoch.

    Args:
        count: Number of images.
        batch_size: Images a batch, at most `count`.
        seed: Seed of the run.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size].tolist()


class MapLoader:
    """An epoch of shuffled batches of views at a time, for any number of workers.

    Args:
        views: The data set.
        batch_size: Images a batch.
        workers: Loader processes; 0 loads in the calling process.
        pin_memory: Whether crops are to be copied to a GPU.
        missing: What to do with an image that has no box.
    """

    def __init__(
        self,
        views: MapViews,
        batch_size: int,
        workers: int = 0,
        pin_memory: bool = False,
        missing: MissingBoxes = "error",
    ) -> None:
        self.views = views
        self._missing = missing
        self._batches = EpochBatches(len(views), batch_size, views.cutter.seed)
        self._loader = DataLoader(
            views,
            batch_sampler=self._batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
        )

    def __len__(self) -> int:
        return len(self._batches)

    def use_boxes(self, folder: Path | None) -> None:
        """Takes the boxes of a box set, also in workers that already run; None: random crops.

        Raises:
            CcropError: When the box set cannot be read or lacks images and that is an error.
        """
        boxes = None
        if folder is not None:
            boxes = join_boxes(self.views.index.keys, BoxSet.open(folder), self._missing)
        self.views.boxes.use(boxes)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All batches of one epoch."""
        self._batches.epoch = epoch
        self.views.boxes.epoch = epoch
        return iter(self._loader)


def _as_it_is(batch: Any) -> Any:
    # `MapViews` hands out whole batches: there is nothing left to collate.
    return batch
