"""Views shard by shard, for sources that are read in order."""

from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ccrop_pipeline.base import Location
from ccrop_pipeline.boxset import FULL_BOX, BoxSet, MissingBoxes
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Sample, Source
from ccrop_pipeline.views.batch import Batch, CurrentBoxSet, ImageBoxes, hash_keys, make_batch
from ccrop_pipeline.views.cutter import ViewCutter
from ccrop_pipeline.views.order import shards_of_rank, shuffled


def whole_batches(items: Iterable[Batch | None], size: int) -> Iterator[Batch | None]:
    """Yield full batches at once, and those of fewer images as soon as they make up one.

    What makes up no batch in the end is dropped.

    Args:
        items: What the workers hand over. Each item gives at most one batch. None stands for a
            full batch that nobody wants.
        size: Images a full batch.
    """
    held: list[Batch] = []
    for item in items:
        if item is None or len(item) == size:
            yield item
            continue
        lacking = size - sum(map(len, held))
        held.append(item.rows(slice(lacking)))
        if len(item) >= lacking:
            yield Batch.join(held)
            held = [item.rows(slice(lacking, None))]


# A sample with its box, float32 (4,); None while there are no boxes.
Boxed = tuple[Sample, np.ndarray | None]
Item = Batch | None | CcropError


class StreamViews(IterableDataset[Item]):
    """What one worker of a stream hands over: its batches, then what is left.

    None takes the place of a batch that comes before the start in any case, and an error that
    of what could not be read.

    Args:
        source: Where the images are.
        cutter: Groups and seed of the views.
        batch_size: Images a batch.
        rank: Number of this process among those that share the shards.
        world_size: Number of those processes.
        buffer: Samples that a worker holds back for shuffling.
        missing: What to do with an image that has no box.

    Attributes:
        current: Box set, epoch and start, seen by workers that already run.
    """

    def __init__(
        self,
        source: Source,
        cutter: ViewCutter,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        buffer: int = 1000,
        missing: MissingBoxes = "error",
    ) -> None:
        self.source, self.cutter, self.batch_size = source, cutter, batch_size
        self.rank, self.world_size = rank, world_size
        self.buffer, self.missing = buffer, missing
        self.current = CurrentBoxSet()

    def __iter__(self) -> Iterator[Item]:
        # Taken once: they may change for the next epoch while this one is still read ahead.
        epoch, folder, start = self.current.epoch, self.current.folder, self.current.start
        try:
            yield from self._items(epoch, folder, start)
        except CcropError as error:
            # Raised in a worker, it would reach people inside of a traceback.
            yield error

    def _items(self, epoch: int, folder: str | None, start: int) -> Iterator[Batch | None]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        seed = self.cutter.seed
        shards = shards_of_rank(self.source.shards, seed, epoch, self.rank, self.world_size)
        own = np.random.SeedSequence((seed, epoch), spawn_key=(self.rank, worker))
        samples = shuffled(
            self._boxed(shards[worker::workers], folder, epoch),
            self.buffer,
            np.random.default_rng(own),
        )
        for turn in count():
            chunk = list(islice(samples, self.batch_size))
            if len(chunk) < self.batch_size:
                break
            # Workers take turns and each item gives at most one batch, so this is the latest
            # place that this batch can have among all. Others may end earlier.
            latest = turn * workers + worker
            yield None if latest < start else self._batch(chunk, epoch)
        if chunk:
            yield self._batch(chunk, epoch)

    def _boxed(self, shards: list[str], folder: str | None, epoch: int) -> Iterator[Boxed]:
        box_set = BoxSet.open(folder) if folder else None
        for shard in shards:
            box_of: Callable[[str], np.ndarray | None] = _no_box
            if box_set:
                box_of = _boxes(box_set, shard, self.missing, self.cutter.seed, epoch)
            for sample in self.source.read(shard):
                yield sample, box_of(sample.key)

    def _batch(self, chunk: list[Boxed], epoch: int) -> Batch:
        samples = [sample for sample, _ in chunk]
        keys = [sample.key for sample in samples]
        hashes = hash_keys(keys)
        boxes = [box for _, box in chunk if box is not None]
        views, readable = self.cutter.cut(
            [sample.image for sample in samples],
            keys,
            hashes,
            np.stack(boxes) if boxes else None,
            epoch,
        )
        labels = np.array([-1 if s.label is None else s.label for s in samples], np.int64)
        return make_batch(views, hashes, labels, readable)


class StreamLoader:
    """Full batches of views from shards that are read in order, each beside its one box shard.

    Shards are shuffled, shared out to ranks and then to workers, and samples pass through a
    buffer. What a view shows depends on (seed, epoch, key, view) alone. The order of the
    samples depends on the number of ranks and workers as well: a restart in mid-epoch needs the
    same number of both.

    Args:
        source: Where the images are.
        cutter: Groups and seed of the views.
        batch_size: Images a batch.
        images: Images that this rank has in an epoch, which gives the loader its length. Where
            shards are of different sizes, ranks have different shares: take the least, so that
            all ranks end an epoch together. None: as many as there are, and no length.
        workers: Loader processes; 0 loads in the calling process.
        rank: Number of this process among those that share the shards.
        world_size: Number of those processes.
        buffer: Encoded images that each worker holds back for shuffling; 1 keeps the stored
            order.
        pin_memory: Whether crops are to be copied to a GPU.
        missing: What to do with an image that has no box.

    Raises:
        CcropError: When there are more ranks than shards.
    """

    def __init__(
        self,
        source: Source,
        cutter: ViewCutter,
        batch_size: int,
        images: int | None = None,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        buffer: int = 1000,
        pin_memory: bool = False,
        missing: MissingBoxes = "error",
    ) -> None:
        if len(source.shards) < world_size:
            raise CcropError(
                f"{source.location} has {len(source.shards)} shards, too few for {world_size} "
                "processes that each need one. Pack the images into more shards"
            )
        self._images = images
        self._pin = pin_memory and torch.accelerator.is_available()
        self._views = StreamViews(source, cutter, batch_size, rank, world_size, buffer, missing)
        self._loader = DataLoader(
            self._views,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            # Else every epoch begun, so every restart, would draw from the generator of all.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Batches an epoch.

        Raises:
            CcropError: When the number of images was not given.
        """
        if self._images is None:
            raise CcropError(
                f"how many batches {self._views.source.location} has is not known before it is "
                "read: give the loader the number of images"
            )
        return self._images // self._views.batch_size

    def use_boxes(self, folder: Location | None) -> None:
        """Draws windows from the boxes of a box set from the next epoch on; None: random crops.

        Raises:
            CcropError: The box set cannot be opened. Its shards are read, and images without a
                box found, as an epoch comes to them.
        """
        if folder is not None:
            BoxSet.open(folder)
        self._views.current.folder = folder

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, without the first `start`: a restart in its middle.

        What is left out is read, and all but a few batches of it not decoded.

        Raises:
            CcropError: When the source or the box set cannot be read, an image has no box and
                that is an error, or there are fewer images than the loader was told.
        """
        self._views.current.epoch, self._views.current.start = epoch, start
        return self._batches(iter(self._loader), start)

    def _batches(self, items: Iterator[Item], start: int) -> Iterator[Batch]:
        end = None if self._images is None else len(self)
        batches = whole_batches(_raised(items), self._views.batch_size)
        done = 0
        for batch in islice(batches, end):
            done += 1
            if done > start:
                assert batch is not None
                yield batch.pin_memory() if self._pin else batch
        if end is not None and done < end:
            raise CcropError(
                f"{self._views.source.location} gave {done} batches and not {end}: it has fewer "
                f"images than the {self._images} that the loader was told. With several "
                "processes, tell it the least that one of them has"
            )


def _raised(items: Iterator[Item]) -> Iterator[Batch | None]:
    for item in items:
        if isinstance(item, CcropError):
            try:
                raise item
            finally:
                # Else error and frame would hold each other, and with them the workers, until
                # the garbage collector ends those the slow way.
                del item
        yield item


def _boxes(
    box_set: BoxSet, shard: str, missing: MissingBoxes, seed: int, epoch: int
) -> Callable[[str], np.ndarray]:
    if missing == "full" and all(entry.name != shard for entry in box_set.manifest.shards):
        return lambda _: np.array(FULL_BOX, np.float32)
    table = box_set.read(shard, heatmaps=False)
    boxes = table.boxes
    if table.choices is not None:
        own = ImageBoxes(boxes, table.choices)
        boxes = own.of_epoch(seed, epoch, hash_keys(table.keys))
    rows = {key: row for row, key in enumerate(table.keys)}

    def box_of(key: str) -> np.ndarray:
        if key in rows:
            box: np.ndarray = boxes[rows[key]]
            return box
        if missing == "full":
            return np.array(FULL_BOX, np.float32)
        raise CcropError(
            f"image {key!r} has no box in {box_set.folder}. Compute the boxes of this source "
            "again, or let such images keep the full box (--missing-boxes full)"
        )

    return box_of


def _no_box(_: str) -> None:
    return None
