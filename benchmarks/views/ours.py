"""Our views of the same images: the loaders' crops and, if wanted, the batched augmentation."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.views.data import ImageSet
from benchmarks.views.made_boxes import write_box_set
from ccrop_pipeline.views import (
    Augment,
    AugmentSettings,
    Loader,
    MapLoader,
    MapViews,
    ResidentLoader,
    ViewCutter,
    ViewGroup,
    canvas_within,
    load_images,
)

CPU = torch.device("cpu")


class MemoryIndex:
    """An `ImageIndex` over images in memory."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images.encoded
        self.keys: Sequence[str] = [f"{row:06d}" for row in range(len(self._images))]
        self.labels = np.zeros(len(self._images), np.int64)
        self.shard_of = np.zeros(len(self._images), np.int32)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, i: int) -> bytes:
        """Encoded bytes of image `i`."""
        return self._images[i]


class OurViews:
    """One loader with its boxes, one epoch a call.

    Small images are decoded when the loader is made, photographs by its workers. Either is
    augmented in the calling process, as in training on a CPU.

    Args:
        images: What to load.
        complete: Augmented and normalised float views, or uint8 crops alone.
        workers: Loader processes for photographs.
        folder: Where the box set is written.
    """

    def __init__(self, images: ImageSet, complete: bool, workers: int, folder: Path) -> None:
        index = MemoryIndex(images)
        group = view_group(images)
        cutter = ViewCutter((group,), seed=0)
        self.loader: Loader
        if images.small:
            canvas = canvas_within(index, math.inf, CPU)
            assert canvas is not None
            resident = load_images(index, canvas, CPU, max(1, workers))
            self.loader = ResidentLoader(resident, cutter, images.batch_size)
        else:
            self.loader = MapLoader(MapViews(index, cutter), images.batch_size, workers)
        self.loader.use_boxes(write_box_set(folder, {"memory": (index.keys, images.boxes)}))
        self.augment = Augment((group,), 0, CPU) if complete else None
        self.finished_epochs = 0

    def epoch(self) -> None:
        """Makes all views of the next epoch."""
        for batch in self.loader.epoch(self.finished_epochs):
            if self.augment:
                self.augment(batch, self.finished_epochs)
        self.finished_epochs += 1


def our_threads(images: ImageSet, workers: int) -> int:
    """Torch threads of the calling process, where we augment, and crop small images.

    Beside busy loader processes half as many threads do: as many as there are cores wait for each
    other at every step (596 images/s with one thread, 401 with two, on two cores).
    """
    return max(1, workers if images.small else workers // 2)


def view_group(images: ImageSet) -> ViewGroup:
    """Two views with the authors' settings: blur for photographs only."""
    augment = AugmentSettings(blur_p=0.0 if images.small else 0.5)
    return ViewGroup(2, images.view_size, scale=(0.2, 1.0), alpha=0.6, augment=augment)
