"""Views of a data set that lies decoded in memory, on the device that trains."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccrop_pipeline.base import Location
from ccrop_pipeline.boxset import MissingBoxes
from ccrop_pipeline.crops.batch_resize import crop_and_resize_batch
from ccrop_pipeline.images import ImageIndex, UnreadableImage, stored_size
from ccrop_pipeline.localize.encoder import to_device
from ccrop_pipeline.views.batch import Batch, ImageBoxes, hash_keys, make_batch
from ccrop_pipeline.views.cutter import GREY, ViewCutter, decode_or_warn
from ccrop_pipeline.views.order import batches_of

_IMAGES_A_TASK = 256
_CPU_SIDE = 40


@dataclass
class ResidentImages:
    """All images of an index, decoded.

    Attributes:
        index: Where they come from.
        pixels: uint8 (n, 3, H, W) on some device, H and W those of the largest image; smaller
            ones lie in the upper left corner.
        sizes: Width and height of each image in pixels, int64 (n, 2).
        readable: bool (n,); the others are grey.
    """

    index: ImageIndex
    pixels: Tensor
    sizes: np.ndarray
    readable: np.ndarray


def canvas_within(
    index: ImageIndex, max_bytes: float, device: torch.device
) -> tuple[int, int] | None:
    """Width and height in pixels of the largest image, if all are worth keeping decoded.

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
    """Decodes all images; those that cannot be decoded become grey, each named in a warning.

    Args:
        index: Images by position.
        canvas: Width and height in pixels of the largest image.
        device: Where the pixels are to lie.
        threads: Decoding threads.
    """
    width, height = canvas
    n = len(index)
    pixels = np.zeros((n, 3, height, width), np.uint8)
    sizes = np.full((n, 2), canvas, np.int64)
    readable = np.ones(n, bool)

    def load(rows: range) -> None:
        for row in rows:
            decoded = decode_or_warn(index.read(row), index.keys[row])
            if decoded is None:
                pixels[row], readable[row] = GREY, False
                continue
            image, _ = decoded
            pixels[row, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
            sizes[row] = image.shape[1::-1]

    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, n, _IMAGES_A_TASK)
        list(pool.map(load, (range(i, min(i + _IMAGES_A_TASK, n)) for i in starts)))
    return ResidentImages(index, torch.from_numpy(pixels).to(device), sizes, readable)


class ResidentLoader:
    """An epoch of shuffled batches at a time, without workers and without decoding.

    The batches are those of `MapLoader`, in the same order; pixels may differ by a rounding.

    Args:
        images: Decoded images.
        cutter: Groups and seed of the views.
        batch_size: Images a batch, over all ranks; at most as many as there are.
        missing: What to do with an image that has no box.
        rank: Number of this process among those that share every batch.
        world_size: Number of those processes.
    """

    def __init__(
        self,
        images: ResidentImages,
        cutter: ViewCutter,
        batch_size: int,
        missing: MissingBoxes = "error",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images, self.cutter, self.batch_size = images, cutter, batch_size
        self._rank, self._world_size = rank, world_size
        self._missing = missing
        self._hashes = hash_keys(list(images.index.keys))
        self._boxes: ImageBoxes | None = None

    def __len__(self) -> int:
        return len(self.images.index) // self.batch_size

    def use_boxes(self, folder: Location | None) -> None:
        """Draws windows from the boxes of a box set from now on; None: random crops.

        Raises:
            CcropError: The box set cannot be read, or lacks images and that is an error.
        """
        keys = list(self.images.index.keys)
        self._boxes = ImageBoxes.find(folder, keys, self._missing) if folder else None

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from the one numbered `start` on, counted from 0."""
        count, seed = len(self.images.index), self.cutter.seed
        order = batches_of(epoch, count, self.batch_size, seed, self._rank, self._world_size)
        boxes = None
        if self._boxes is not None:
            boxes = self._boxes.of_epoch(seed, epoch, self._hashes)
        for rows in order[start:]:
            yield self._batch(rows, epoch, None if boxes is None else boxes[rows])

    def _batch(self, rows: np.ndarray, epoch: int, boxes: np.ndarray | None) -> Batch:
        images, hashes = self.images, self._hashes[rows]
        windows = self.cutter.windows(hashes, images.sizes[rows], boxes, epoch)
        device = images.pixels.device
        chosen = images.pixels[to_device(torch.from_numpy(rows), device)]
        on_device = to_device(torch.from_numpy(windows), device)
        groups = self.cutter.groups
        counts = [group.count for group in groups]
        views = tuple(
            torch.stack([crop_and_resize_batch(chosen, of_view, group.size) for of_view in drawn])
            for group, drawn in zip(groups, torch.split(on_device, counts), strict=True)
        )
        return make_batch(views, hashes, images.index.labels[rows], images.readable[rows])
