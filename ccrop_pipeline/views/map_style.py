"""Views by random access: any indexed source, shuffled as a whole."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ccrop_pipeline.base import Location
from ccrop_pipeline.boxset import MissingBoxes
from ccrop_pipeline.images import ImageIndex
from ccrop_pipeline.views.batch import Batch, ImageBoxes, SharedBoxes, hash_keys, make_batch
from ccrop_pipeline.views.cutter import ViewCutter
from ccrop_pipeline.views.order import batches_of


class MapViews(Dataset[Batch]):
    """A data set of views that is read a batch at a time.

    Args:
        index: Images by position.
        cutter: Groups and seed of the views.
    """

    def __init__(self, index: ImageIndex, cutter: ViewCutter) -> None:
        self.index = index
        self.cutter = cutter
        self.boxes = SharedBoxes(len(index))
        self.hashes = hash_keys(list(index.keys))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> Batch:
        return self.__getitems__([row])

    def __getitems__(self, rows: list[int]) -> Batch:
        """Views of the images at `rows`, for the current epoch and boxes."""
        at = np.asarray(rows)
        views, readable = self.cutter.cut(
            [self.index.read(row) for row in rows],
            [self.index.keys[row] for row in rows],
            self.hashes[at],
            self.boxes.of(at),
            self.boxes.epoch,
        )
        return make_batch(views, self.hashes[at], self.index.labels[at], readable)


class _EpochBatches(Sampler[list[int]]):
    """Rows of the batches of the epoch that is set, from the one that is set."""

    def __init__(self, count: int, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = batches_of(
            self.epoch, self.count, self.batch_size, self.seed, self.rank, self.world_size
        )
        yield from order[self.start :].tolist()


class MapLoader:
    """An epoch of shuffled batches of views at a time, for any number of workers.

    Args:
        views: The data set.
        batch_size: Images a batch, over all ranks.
        workers: Loader processes; 0 loads in the calling process.
        pin_memory: Whether crops are to be copied to a GPU.
        missing: What to do with an image that has no box.
        rank: Number of this process among those that share every batch.
        world_size: Number of those processes.
    """

    def __init__(
        self,
        views: MapViews,
        batch_size: int,
        workers: int = 0,
        pin_memory: bool = False,
        missing: MissingBoxes = "error",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.views = views
        self._missing = missing
        self._boxes: ImageBoxes | None = None
        self._batches = _EpochBatches(len(views), batch_size, views.cutter.seed, rank, world_size)
        self._loader = DataLoader(
            views,
            batch_sampler=self._batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
            # Else every epoch begun, so every restart, would draw from the generator of all.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self._batches)

    def use_boxes(self, folder: Location | None) -> None:
        """Takes the boxes of a box set, also in workers that already run; None: random crops.

        Raises:
            CcropError: When the box set cannot be read or lacks images and that is an error.
        """
        self._boxes = None
        if folder is not None:
            keys = list(self.views.index.keys)
            self._boxes = ImageBoxes.find(folder, keys, self._missing)
        self._share_boxes()

    def _share_boxes(self) -> None:
        views, boxes = self.views, None
        if self._boxes is not None:
            seed, epoch = views.cutter.seed, views.boxes.epoch
            boxes = self._boxes.of_epoch(seed, epoch, views.hashes)
        views.boxes.use(boxes)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from the one numbered `start` on, counted from 0."""
        self._batches.epoch, self._batches.start = epoch, start
        self.views.boxes.epoch = epoch
        if self._boxes is not None and self._boxes.choices is not None:
            self._share_boxes()
        return iter(self._loader)


def _as_it_is(batch: Any) -> Any:
    # `MapViews` hands out whole batches: there is nothing left to collate.
    return batch
