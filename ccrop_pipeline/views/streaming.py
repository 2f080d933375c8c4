"""Views shard by shard, for sources that are read in order."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ccrop_pipeline.boxset import FULL_BOX, BoxSet
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.sources import Sample, Source
from ccrop_pipeline.views.batch import Batch, hash_keys, make_batch
from ccrop_pipeline.views.boxes import CurrentBoxSet, MissingBoxes, random_crop
from ccrop_pipeline.views.cutter import ViewCutter

Boxed = tuple[Sample, np.ndarray]


class StreamViews(IterableDataset[Batch]):
    """Reads each image shard beside the one box shard that belongs to it.

    Shards are shuffled, then split over the workers; samples pass through a buffer. What a
    view shows depends on (seed, epoch, key, view) alone; the order of the samples depends on
    the number of workers as well. Each worker ends with a batch that may be smaller.

    Args:
        source: Where the images are.
        cutter: Size, number and seed of the views.
        params: How windows are drawn once there are boxes.
        batch_size: Images a batch.
        buffer: Samples held back for shuffling; 1 keeps the stored order.
        missing: What to do with an image that has no box.
    """

    def __init__(
        self,
        source: Source,
        cutter: ViewCutter,
        params: CropParams,
        batch_size: int,
        buffer: int = 1000,
        missing: MissingBoxes = "error",
    ) -> None:
        self.source, self.cutter, self.params = source, cutter, params
        self.batch_size, self.buffer, self.missing = batch_size, buffer, missing
        self.current = CurrentBoxSet()

    def __iter__(self) -> Iterator[Batch]:
        random = np.random.default_rng((self.cutter.seed, self.current.epoch))
        samples = _shuffle(self._read(random), self.buffer, random)
        while chunk := list(islice(samples, self.batch_size)):
            yield self._batch(chunk)

    def _read(self, random: np.random.Generator) -> Iterator[Boxed]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        folder = self.current.folder
        box_set = BoxSet.open(folder) if folder else None
        for shard in random.permutation(self.source.shards)[first::step]:
            boxes = _boxes_by_key(box_set, str(shard)) if box_set else None
            for sample in self.source.read(str(shard)):
                yield sample, self._box(sample.key, boxes)

    def _box(self, key: str, boxes: dict[str, np.ndarray] | None) -> np.ndarray:
        if boxes is None or (self.missing == "full" and key not in boxes):
            return np.array(FULL_BOX, np.float32)
        if key not in boxes:
            raise CcropError(
                f"image {key!r} has no box in {self.current.folder}. Compute the boxes of this "
                'source again, or let such images keep the full box (missing="full")'
            )
        return boxes[key]

    def _batch(self, chunk: list[Boxed]) -> Batch:
        samples = [sample for sample, _ in chunk]
        keys = [sample.key for sample in samples]
        hashes = hash_keys(keys)
        params = self.params if self.current.folder else random_crop(self.params)
        crops, unreadable = self.cutter.cut(
            [sample.image for sample in samples],
            keys,
            hashes,
            np.stack([box for _, box in chunk]),
            self.current.epoch,
            params,
        )
        labels = np.array([-1 if s.label is None else s.label for s in samples], np.int64)
        return make_batch(crops, hashes, labels, unreadable)


def stream_loader(
    views: StreamViews, workers: int = 0, pin_memory: bool = False
) -> DataLoader[Batch]:
    """A loader over `views`.

    Before each epoch set ``views.current.epoch`` and, whenever it changes,
    ``views.current.folder``; workers that already run see both.
    """
    return DataLoader(
        views,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )


def _boxes_by_key(box_set: BoxSet, shard: str) -> dict[str, np.ndarray]:
    table = box_set.read(shard)
    return dict(zip(table.keys, table.boxes, strict=True))


def _shuffle(samples: Iterator[Boxed], size: int, random: np.random.Generator) -> Iterator[Boxed]:
    buffer = list(islice(samples, size))
    for sample in samples:
        at = int(random.integers(size))
        yield buffer[at]
        buffer[at] = sample
    for at in random.permutation(len(buffer)):
        yield buffer[at]
