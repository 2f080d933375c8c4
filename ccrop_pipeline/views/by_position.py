"""Views of images that can be read by position: decoded in memory, or decoded again each time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ccrop_pipeline.base import ALONE, Ranks
from ccrop_pipeline.base.workers import end_with_parent, from_workers, make_room_for_workers
from ccrop_pipeline.boxset import Boxes, MissingBoxes
from ccrop_pipeline.crops.batch_resize import crop_and_resize_batch
from ccrop_pipeline.images import ImageIndex, UnreadableImage, stored_size
from ccrop_pipeline.localize import to_device
from ccrop_pipeline.views.augment import Augment
from ccrop_pipeline.views.batch import Batch, hash_keys, make_batch
from ccrop_pipeline.views.current_boxes import ImageBoxes, SharedBoxes
from ccrop_pipeline.views.cutter import GREY, ViewCutter, decode_or_note
from ccrop_pipeline.views.rooms import received

_IMAGES_A_TASK = 256
_CPU_SIDE = 40


def batches_of(
    epoch: int, count: int, batch_size: int, seed: int, ranks: Ranks = ALONE
) -> NDArray[np.int64]:
    """Return the rows of all batches of an epoch: a shuffle that depends on (seed, epoch) alone.

    The last images that do not fill a batch are left out, as contrastive losses and batch norm
    want equal batches; which images those are changes from epoch to epoch. Of several processes
    each has its portion of every batch, in order and of equal size; what cannot be divided
    equally is left out.

    Args:
        epoch: Number of the epoch.
        count: Number of images.
        batch_size: Images a batch, over all processes.
        seed: Seed of the run.
        ranks: Which process this is.

    Returns:
        int64 (count // batch_size, batch_size // world_size).
    """
    order = np.random.default_rng((seed, epoch)).permutation(count)
    batches = order[: count // batch_size * batch_size].reshape(-1, batch_size)
    own = batch_size // ranks.world_size
    return batches[:, ranks.rank * own : (ranks.rank + 1) * own]


class _Views(Dataset[Batch]):
    """Views of an index, read a batch at a time."""

    def __init__(self, index: ImageIndex, cutter: ViewCutter, augment: Augment | None) -> None:
        self.index, self.cutter, self.augment = index, cutter, augment
        self.boxes = SharedBoxes(len(index))
        self.hashes = hash_keys(index.keys)

    def __getitems__(self, rows: list[int]) -> Batch:
        """Return the views of the images at `rows`, for the current epoch and boxes."""
        at, epoch = np.asarray(rows), self.boxes.epoch
        views, problems = self.cutter.cut(
            [self.index.read(row) for row in rows],
            [self.index.keys[row] for row in rows],
            self.hashes[at],
            self.boxes.of(at),
            epoch,
        )
        batch = make_batch(views, self.hashes[at], self.index.labels[at], problems)
        return (
            self.augment.augmented(batch, epoch) if self.augment and self.boxes.augmented else batch
        )


class _EpochBatches(Sampler[list[int]]):
    """Rows of the batches of the epoch that is set, from the one that is set."""

    def __init__(self, count: int, batch_size: int, seed: int, ranks: Ranks) -> None:
        self.count, self.batch_size, self.seed, self.ranks = count, batch_size, seed, ranks
        self.epoch, self.start = 0, 0

    def __iter__(self) -> Iterator[list[int]]:
        order = batches_of(self.epoch, self.count, self.batch_size, self.seed, self.ranks)
        yield from order[self.start :].tolist()


class MapLoader:
    """An epoch of shuffled batches of crops at a time, decoded by any number of workers.

    Args:
        index: Images by position.
        cutter: Groups and seed of the views.
        batch_size: Images a batch, over all ranks.
        augment: Changes the crops of augmented epochs where they are cut; of a CPU.
        workers: Loader processes; 0 loads in the calling process.
        pin_memory: Whether crops are to be copied to a GPU.
        missing: What to do with an image that has no box.
        ranks: Which process this is, of those that share every batch.

    Attributes:
        batches: Batches an epoch.
    """

    def __init__(
        self,
        index: ImageIndex,
        cutter: ViewCutter,
        *,
        batch_size: int,
        augment: Augment | None = None,
        workers: int = 0,
        pin_memory: bool = False,
        missing: MissingBoxes = "error",
        ranks: Ranks = ALONE,
    ) -> None:
        self._views, self._missing = _Views(index, cutter, augment), missing
        self._boxes: ImageBoxes | None = None
        self.batches = len(index) // batch_size
        self._order = _EpochBatches(len(index), batch_size, cutter.seed, ranks)
        make_room_for_workers(workers)
        self._loader = DataLoader(
            self._views,
            batch_sampler=self._order,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=end_with_parent,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
            # Else every epoch begun, so every restart, would draw from the generator of all.
            generator=torch.Generator(),
        )

    def use_boxes(self, boxes: Boxes | None) -> None:
        """Take the boxes of a box set, also in workers that already run; None: random crops.

        Raises:
            CcropError: If the box set cannot be read, or lacks images and that is an error.
        """
        keys, self._boxes = self._views.index.keys, None
        if boxes is not None:
            self._boxes = ImageBoxes.find(boxes, list(keys), self._missing)
        self._share_boxes()

    def _share_boxes(self) -> None:
        views, boxes = self._views, None
        if self._boxes is not None:
            seed, epoch = views.cutter.seed, views.boxes.epoch
            boxes = self._boxes.of_epoch(seed, epoch, views.hashes)
        views.boxes.use(boxes)

    def epoch(self, epoch: int, start: int = 0, *, augmented: bool = False) -> Iterator[Batch]:
        """Return the batches of one epoch from the one numbered `start` on, counted from 0."""
        self._order.epoch, self._order.start = epoch, start
        self._views.boxes.epoch, self._views.boxes.augmented = epoch, int(augmented)
        if self._boxes is not None and self._boxes.choices is not None:
            self._share_boxes()
        return map(received, from_workers(self._loader))


def _as_it_is(batch: Any) -> Any:
    # `_Views` hands out whole batches: there is nothing left to collate.
    return batch


@dataclass
class ResidentImages:
    """All images of an index, decoded.

    Attributes:
        index: Where they come from.
        pixels: uint8 (n, 3, H, W) on some device, H and W those of the largest image; smaller
            ones are in the upper left corner.
        sizes: Width and height of each image in pixels, int64 (n, 2).
        problems: Key and reason of those that cannot be decoded, by row; they are grey.
    """

    index: ImageIndex
    pixels: Tensor
    sizes: NDArray[np.int64]
    problems: dict[int, str]


def canvas_within(
    index: ImageIndex, max_bytes: float, device: torch.device
) -> tuple[int, int] | None:
    """Return width and height in pixels of the largest image, if all are worth keeping decoded.

    They are if they fit into so many bytes and, on a CPU, are no larger than 40 px: batched
    crops take as many operations as an image has pixels along an axis, so that on a CPU it is
    quicker to decode larger images again and cut them one by one (figures in lab/benchmarks.md).

    Reads headers only, and stops at the image that makes it too much.
    """
    width = height = 1
    for row in range(len(index)):
        try:
            own = stored_size(index.read(row))
        except UnreadableImage:
            continue
        width, height = max(width, own[0]), max(height, own[1])
        if 3 * width * height * len(index) > max_bytes:
            return None
        if device.type == "cpu" and max(width, height) > _CPU_SIDE:
            return None
    return width, height


def load_images(
    index: ImageIndex, canvas: tuple[int, int], device: torch.device, threads: int
) -> ResidentImages:
    """Decode all images; those that cannot be decoded become grey.

    Args:
        index: Images by position.
        canvas: Width and height in pixels of the largest image.
        device: Where the pixels are to be.
        threads: Decoding threads.
    """
    width, height = canvas
    n = len(index)
    pixels = np.zeros((n, 3, height, width), np.uint8)
    sizes = np.full((n, 2), canvas, np.int64)
    problems: dict[int, str] = {}

    def load(rows: range) -> None:
        for row in rows:
            decoded = decode_or_note(index.read(row), index.keys[row], problems, row)
            if decoded is None:
                pixels[row] = GREY
                continue
            image, _ = decoded
            pixels[row, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
            sizes[row] = image.shape[1::-1]

    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, n, _IMAGES_A_TASK)
        list(pool.map(load, (range(i, min(i + _IMAGES_A_TASK, n)) for i in starts)))
    return ResidentImages(index, torch.from_numpy(pixels).to(device), sizes, problems)


class ResidentLoader:
    """An epoch of shuffled batches at a time, without workers and without decoding.

    The batches are those of `MapLoader`, in the same order; pixels may differ by a rounding.

    Args:
        images: Decoded images.
        cutter: Groups and seed of the views.
        batch_size: Images a batch, over all ranks; at most as many as there are.
        missing: What to do with an image that has no box.
        ranks: Which process this is, of those that share every batch.

    Attributes:
        batches: Batches an epoch.
    """

    def __init__(
        self,
        images: ResidentImages,
        cutter: ViewCutter,
        *,
        batch_size: int,
        missing: MissingBoxes = "error",
        ranks: Ranks = ALONE,
    ) -> None:
        self.images, self._cutter, self._batch_size = images, cutter, batch_size
        self._ranks, self._missing = ranks, missing
        self.batches = len(images.index) // batch_size
        self._hashes = hash_keys(images.index.keys)
        self._boxes: ImageBoxes | None = None

    def use_boxes(self, boxes: Boxes | None) -> None:
        """Draw windows from the boxes of a box set from the next epoch on; None: random crops.

        Raises:
            CcropError: If the box set cannot be read, or lacks images and that is an error.
        """
        self._boxes = None
        if boxes is not None:
            self._boxes = ImageBoxes.find(boxes, list(self.images.index.keys), self._missing)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from the one numbered `start` on, counted from 0."""
        count, seed = len(self.images.index), self._cutter.seed
        order = batches_of(epoch, count, self._batch_size, seed, self._ranks)
        boxes = None
        if self._boxes is not None:
            boxes = self._boxes.of_epoch(seed, epoch, self._hashes)
        for rows in order[start:]:
            yield self._batch(rows, epoch, None if boxes is None else boxes[rows])

    def _batch(
        self, rows: NDArray[np.int64], epoch: int, boxes: NDArray[np.float32] | None
    ) -> Batch:
        images, hashes = self.images, self._hashes[rows]
        windows = self._cutter.windows(hashes, images.sizes[rows], boxes, epoch)
        device = images.pixels.device
        chosen = images.pixels[to_device(torch.from_numpy(rows), device)]
        on_device = to_device(torch.from_numpy(windows), device)
        groups = self._cutter.groups
        counts = [group.count for group in groups]
        views = tuple(
            torch.stack([crop_and_resize_batch(chosen, of_view, group.size) for of_view in drawn])
            for group, drawn in zip(groups, torch.split(on_device, counts), strict=True)
        )
        known = images.problems
        problems = {at: known[row] for at, row in enumerate(rows.tolist()) if row in known}
        return make_batch(views, hashes, images.index.labels[rows], problems)
