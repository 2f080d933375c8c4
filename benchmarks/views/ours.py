"""Our views of the same images: the loaders' crops and, if wanted, the batched augmentation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.views.data import ImageSet
from benchmarks.views.made_boxes import write_box_set
from ccrop_pipeline.views import AugmentSettings, ViewGroup, ViewLoader


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
        """Return the encoded bytes of image `i`."""
        return self._images[i]


class OurViews:
    """One loader with its boxes, one epoch a call.

    Small images are decoded when the loader is made, and augmented in the calling process.
    Photographs are decoded and augmented by its workers, as in training on a CPU.

    Args:
        images: What to load.
        complete: Augmented and normalised float views, or uint8 crops alone.
        workers: Loader processes for photographs.
        folder: Where the box set is written.
    """

    def __init__(self, images: ImageSet, complete: bool, workers: int, folder: Path) -> None:
        index = MemoryIndex(images)
        self.loader = ViewLoader(
            index,
            view_group(images),
            boxes=write_box_set(folder, {"memory": (index.keys, images.boxes)}),
            batch_size=images.batch_size,
            workers=workers,
            resident_gb=1000 if images.small else 0,
            threads=max(1, workers),
        )
        self._complete = complete
        self.finished_epochs = 0

    def epoch(self) -> None:
        """Make all views of the next epoch."""
        self.loader.set_epoch(self.finished_epochs)
        for _ in self.loader if self._complete else self.loader.crops(self.finished_epochs):
            pass
        self.finished_epochs += 1


def our_threads(images: ImageSet, workers: int) -> int:
    """Torch threads of the calling process, which crops and augments small images."""
    return max(1, workers) if images.small else 1


def view_group(images: ImageSet) -> ViewGroup:
    """Two views with the authors' settings: blur for photographs only."""
    augment = AugmentSettings(blur_p=0.0 if images.small else 0.5)
    return ViewGroup(2, images.view_size, scale=(0.2, 1.0), alpha=0.6, augment=augment)
