"""Views shard by shard, for sources that are read in order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ccrop_pipeline.base import ALONE, Ranks
from ccrop_pipeline.base.workers import end_with_parent, from_workers, make_room_for_workers
from ccrop_pipeline.boxset import Boxes, BoxSet, MissingBoxes, opened
from ccrop_pipeline.errors import CcropError, SourceError, counted
from ccrop_pipeline.images import Sample, Source
from ccrop_pipeline.views.augment import Augment
from ccrop_pipeline.views.batch import Batch, hash_keys, make_batch
from ccrop_pipeline.views.current_boxes import CurrentBoxSet, ImageBoxes
from ccrop_pipeline.views.cutter import ViewCutter
from ccrop_pipeline.views.rooms import received

Thing = TypeVar("Thing")
# A sample with its box, float32 (4,); None while there are no boxes.
Boxed = tuple[Sample, NDArray[np.float32] | None]
BoxOf = Callable[[str], NDArray[np.float32] | None]  # from a key to its box
Item = Batch | None | CcropError


def shards_of_rank(shards: Sequence[str], seed: int, epoch: int, ranks: Ranks = ALONE) -> list[str]:
    """Return the shards that one rank reads in an epoch, in the order of reading.

    The order of all depends on (seed, epoch) alone, so that every shard has one rank.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(shards))
    return [shards[at] for at in order[ranks.rank :: ranks.world_size]]


def shuffled(items: Iterator[Thing], size: int, random: np.random.Generator) -> Iterator[Thing]:
    """Yield all items, each out of `size` that are held back; 1 keeps their order."""
    held = list(islice(items, size))
    for item in items:
        at = int(random.integers(size))
        yield held[at]
        held[at] = item
    for at in random.permutation(len(held)):
        yield held[at]


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


class StreamViews(IterableDataset[Item]):
    """What one worker of a stream hands over: its batches, then what is left.

    None takes the place of a batch that comes before the start in any case, and an error that
    of what could not be read.

    Args:
        source: Where the images are.
        cutter: Groups and seed of the views.
        batch_size: Images a batch.
        augment: Changes the crops of augmented epochs where they are cut; of a CPU.
        ranks: Which process this is, of those that share the shards.
        buffer: Samples that a worker holds back for shuffling.
        missing: What to do with an image that has no box.

    Attributes:
        current: Box set, epoch and start, seen by workers that already run.
    """

    def __init__(
        self,
        source: Source,
        cutter: ViewCutter,
        *,
        batch_size: int,
        augment: Augment | None = None,
        ranks: Ranks = ALONE,
        buffer: int = 1000,
        missing: MissingBoxes = "error",
    ) -> None:
        self.source, self.cutter, self.batch_size = source, cutter, batch_size
        self.augment = augment
        self.ranks, self.buffer, self.missing = ranks, buffer, missing
        self.current = CurrentBoxSet()

    def __iter__(self) -> Iterator[Item]:
        # Taken once: they may change for the next epoch while this one is still read ahead.
        epoch, folder, start = self.current.epoch, self.current.folder, self.current.start
        augment = self.augment if self.current.augmented else None
        try:
            for item in self._items(epoch, folder, start):
                yield augment.augmented(item, epoch) if augment and item is not None else item
        except CcropError as error:
            # Raised in a worker, it would reach people inside of a traceback.
            yield error

    def _items(self, epoch: int, folder: str | None, start: int) -> Iterator[Batch | None]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        seed = self.cutter.seed
        shards = shards_of_rank(self.source.shards, seed, epoch, self.ranks)
        own = np.random.SeedSequence((seed, epoch), spawn_key=(self.ranks.rank, worker))
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
        boxes_of = _boxes(folder, self.missing, self.cutter.seed, epoch) if folder else _no_boxes
        for shard in shards:
            box_of = boxes_of(shard)
            for sample in self.source.read(shard):
                yield sample, box_of(sample.key)

    def _batch(self, chunk: list[Boxed], epoch: int) -> Batch:
        samples = [sample for sample, _ in chunk]
        keys = [sample.key for sample in samples]
        hashes = hash_keys(keys)
        boxes = [box for _, box in chunk if box is not None]
        views, problems = self.cutter.cut(
            [sample.image for sample in samples],
            keys,
            hashes,
            np.stack(boxes) if boxes else None,
            epoch,
        )
        labels = np.array([-1 if s.label is None else s.label for s in samples], np.int64)
        return make_batch(views, hashes, labels, problems)


class StreamLoader:
    """Full batches of crops from shards that are read in order, each beside its one box shard.

    Shards are shuffled, divided among ranks and then among workers, and samples pass through a
    buffer. What a view shows depends on (seed, epoch, key, view) alone. The order of the samples
    depends on the number of ranks and workers as well: a restart in mid-epoch needs the same
    number of both.

    Args:
        source: Where the images are.
        cutter: Groups and seed of the views.
        batch_size: Images a batch, of this rank alone.
        images: Images that this rank has in every epoch. None: as many as there are.
        augment: Changes the crops of augmented epochs where they are cut; of a CPU.
        workers: Loader processes; 0 loads in the calling process.
        ranks: Which process this is, of those that share the shards.
        buffer: Encoded images that each worker holds back for shuffling; 1 keeps the stored
            order.
        pin_memory: Whether crops are to be copied to a GPU.
        missing: What to do with an image that has no box.

    Attributes:
        batches: Batches an epoch; None where it is not known.

    Raises:
        CcropError: If there are more ranks than shards.
    """

    def __init__(
        self,
        source: Source,
        cutter: ViewCutter,
        *,
        batch_size: int,
        images: int | None = None,
        augment: Augment | None = None,
        workers: int = 0,
        ranks: Ranks = ALONE,
        buffer: int = 1000,
        pin_memory: bool = False,
        missing: MissingBoxes = "error",
    ) -> None:
        if len(source.shards) < ranks.world_size:
            raise SourceError(
                f"{source.location} has {counted(len(source.shards), 'shard')}, too few for "
                f"{counted(ranks.world_size, 'process')} that each need one. Pack the images into "
                "more shards."
            )
        self._images = images
        self.batches = None if images is None else images // batch_size
        self._pin = pin_memory and torch.accelerator.is_available()
        self._views = StreamViews(
            source,
            cutter,
            batch_size=batch_size,
            augment=augment,
            ranks=ranks,
            buffer=buffer,
            missing=missing,
        )
        make_room_for_workers(workers)
        self._loader = DataLoader(
            self._views,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=end_with_parent,
            pin_memory=pin_memory,
            # Else every epoch begun, so every restart, would draw from the generator of all.
            generator=torch.Generator(),
        )

    def use_boxes(self, boxes: Boxes | None) -> None:
        """Draw windows from the boxes of a box set from the next epoch on; None: random crops.

        Raises:
            CcropError: If the box set cannot be opened. Its shards are read, and images without a
                box found, as an epoch comes to them.
        """
        self._views.current.use(None if boxes is None else opened(boxes))

    def epoch(self, epoch: int, start: int = 0, *, augmented: bool = False) -> Iterator[Batch]:
        """Return the batches of one epoch, without the first `start`: a restart in its middle.

        What is left out is read, and all but a few batches of it not decoded.

        Raises:
            CcropError: If the source or the box set cannot be read, an image has no box and
                that is an error, or there are fewer images than the loader was told.
        """
        current = self._views.current
        current.epoch, current.start, current.augmented = epoch, start, int(augmented)
        return self._batches(from_workers(self._loader), start)

    def _batches(self, items: Iterator[Item], start: int) -> Iterator[Batch]:
        batches = whole_batches(_raised(items), self._views.batch_size)
        done = 0
        for batch in islice(batches, self.batches):
            done += 1
            if done > start:
                assert batch is not None
                yield batch.pin_memory() if self._pin else batch
        if self.batches is not None and done < self.batches:
            raise SourceError(
                f"{self._views.source.location} gave {counted(done, 'batch')} and not "
                f"{self.batches}: its "
                f"shards have fewer images than the {self._images} that they should. Compute the "
                "boxes of this source again, or give `shard_sizes` as they are."
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
        yield item if item is None else received(item)


def _boxes(folder: str, missing: MissingBoxes, seed: int, epoch: int) -> Callable[[str], BoxOf]:
    """Return what gives, for a shard, the boxes of an epoch by key."""
    box_set = BoxSet.open(folder)
    names = {entry.name for entry in box_set.manifest.shards}

    def looked_up(key: str) -> NDArray[np.float32]:
        found = ImageBoxes.find(box_set, [key], missing)
        box: NDArray[np.float32] = found.of_epoch(seed, epoch, hash_keys([key]))[0]
        return box

    def boxes_of(shard: str) -> BoxOf:
        if shard not in names:  # the boxes of these images in other shards
            return looked_up
        table = box_set.read(shard, heatmaps=False)
        boxes = table.boxes
        if table.choices is not None:
            own = ImageBoxes(boxes, table.choices)
            boxes = own.of_epoch(seed, epoch, hash_keys(table.keys))
        rows = {key: row for row, key in enumerate(table.keys)}

        def box_of(key: str) -> NDArray[np.float32]:
            box: NDArray[np.float32] = boxes[rows[key]] if key in rows else looked_up(key)
            return box

        return box_of

    return boxes_of


def _no_boxes(_: str) -> BoxOf:
    return lambda _: None
