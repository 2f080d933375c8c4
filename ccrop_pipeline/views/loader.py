"""`ViewLoader`: batches of augmented views, in whatever way suits the images and the machine."""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import torch

from ccrop_pipeline.base import Ranks
from ccrop_pipeline.base.values import differences
from ccrop_pipeline.boxset import Boxes, BoxSet, MissingBoxes, opened
from ccrop_pipeline.errors import CcropError, SettingError, counted
from ccrop_pipeline.images import ImageIndex, Source, open_source
from ccrop_pipeline.localize import open_device
from ccrop_pipeline.recipes import ViewGroup
from ccrop_pipeline.views.augment import Augment
from ccrop_pipeline.views.batch import Batch, ahead_on_gpu
from ccrop_pipeline.views.by_position import MapLoader, ResidentLoader, canvas_within, load_images
from ccrop_pipeline.views.cutter import ViewCutter
from ccrop_pipeline.views.streaming import StreamLoader

_MOST_WORKERS = 1024  # beyond the cores of any machine, and each is a process


def rows_by_shard(boxes: BoxSet, source: Source) -> list[int] | None:
    """Return the images of each shard of a source by its boxes; None where these have others."""
    names = tuple(shard.name for shard in boxes.manifest.shards)
    return [shard.rows for shard in boxes.manifest.shards] if names == source.shards else None


class ViewLoader:
    """Batches of augmented views of images, cut from boxes or at random.

    A view depends on (seed, epoch, key, view) and on nothing else: not on workers, batch size or
    rank, nor on where an epoch is resumed. Images that fit into `resident_gb`, and on a CPU are no
    larger than 40 px, stay decoded on the device; others are read by position, and those of a
    source that can only be read in order are streamed.

    Iterating yields the batches of one epoch. It has whole batches only; which images are left
    out changes from epoch to epoch. The next iteration is of the next epoch; after one that was
    broken off, the same epoch begins anew.

    Args:
        source: Images, or what `open_source` opens. Or an index of your own: keys, labels and
            encoded images by position, see `ImageIndex`.
        groups: The views of an image; several groups are multi-crop.
        boxes: A box set, or its folder: a local path or an address. None: random crops.
        batch_size: Images a batch, over all ranks.
        workers: Loader processes, at most 1,024; 0 loads in the calling process.
        device: Where views are augmented and handed out.
        seed: Of order, crops and colours.
        missing: What to do with an image that has no box: "error", or "full" for the full box.
        rank: Number of this process among those that share the images.
        world_size: Number of those processes.
        resident_gb: Most gigabytes (1e9 bytes) of images that stay decoded on the device; 0: none
            do.
        threads: Decoding threads for images that stay decoded; None: one a core.
        buffer: Encoded images that each worker holds back for shuffling where they are streamed.
        shard_sizes: Images of each shard of a source that is streamed, which give the loader its
            length. None: as many as `boxes` has; without boxes, or with those of the same images
            in other shards, there is no length.

    Attributes:
        index: Images by position; None where they are streamed.
        images: Number of images of the source; None where it is not known.
        note: How images are loaded, in a line for people.

    Raises:
        SettingError: If a number is out of its range, there are fewer images than a batch, or the
            device cannot be used here.
        CcropError: If the box set cannot be read, or images have no box and that is an error.
    """

    index: ImageIndex | None = None
    images: int | None = None

    def __init__(
        self,
        source: Source | ImageIndex | str | Path,
        groups: ViewGroup | Sequence[ViewGroup],
        *,
        boxes: Boxes | None = None,
        batch_size: int,
        workers: int = 0,
        device: str | torch.device = "cpu",
        seed: int = 0,
        missing: MissingBoxes = "error",
        rank: int = 0,
        world_size: int = 1,
        resident_gb: float = 4.0,
        threads: int | None = None,
        buffer: int = 1000,
        shard_sizes: Sequence[int] | None = None,
    ) -> None:
        if batch_size < world_size:
            raise SettingError(
                f"`batch_size` is {batch_size}; it must be 1 or more for each of {world_size} "
                "processes."
            )
        _expect_in_range(seed=seed, resident_gb=resident_gb, buffer=buffer)
        if not 0 <= workers <= _MOST_WORKERS:
            raise SettingError(f"`workers` is {workers}; it must be from 0 to {_MOST_WORKERS}.")
        groups = (groups,) if isinstance(groups, ViewGroup) else tuple(groups)
        self._device, self._batch_size, self._workers = open_device(device), batch_size, workers
        self._cutter, self._augment = ViewCutter(groups, seed), Augment(groups, seed, self._device)
        # What the order of the images depends on.
        self._order = {"seed": seed, "batch_size": batch_size, "world_size": world_size}
        self._epoch = self._start = self._done = 0
        source = open_source(source) if isinstance(source, str | Path) else source
        boxes = None if boxes is None else opened(boxes)
        self._parts: ResidentLoader | MapLoader | StreamLoader
        order: dict[str, Any] = {"missing": missing, "ranks": Ranks(rank, world_size)}
        if getattr(source, "random_access", True):
            # An index of one's own has no index.
            index = cast(ImageIndex, source.index() if hasattr(source, "index") else source)
            self._parts = self._by_position(index, resident_gb, threads, order)
        else:
            if shard_sizes is None and boxes is not None and missing == "error":
                shard_sizes = rows_by_shard(boxes, cast(Source, source))
            self._parts = self._streamed(cast(Source, source), buffer, shard_sizes, order)
        self.use_boxes(boxes)

    def _by_position(
        self, index: ImageIndex, resident_gb: float, threads: int | None, order: dict[str, Any]
    ) -> ResidentLoader | MapLoader:
        self.index, self.images, size = index, len(index), self._batch_size
        _expect_a_batch(len(index), size)
        canvas = canvas_within(index, round(resident_gb * 1e9), self._device)
        if canvas is None:
            self.note = f"{counted(len(index), 'image')} are read by position, in {self._processes}"
            pin = self._device.type == "cuda"
            return MapLoader(
                index,
                self._cutter,
                batch_size=size,
                augment=self._by_workers,
                workers=self._workers,
                pin_memory=pin,
                **order,
            )
        images = load_images(index, canvas, self._device, threads or os.cpu_count() or 1)
        self.note = (
            f"{counted(len(index), 'image')} are decoded in the memory of {self._device} "
            f"({images.pixels.nbytes / 1e9:.2f} GB of {resident_gb:g} allowed)"
        )
        return ResidentLoader(images, self._cutter, batch_size=size, **order)

    def _streamed(
        self, source: Source, buffer: int, sizes: Sequence[int] | None, order: dict[str, Any]
    ) -> StreamLoader:
        processes = order["ranks"].world_size
        size, least = self._batch_size // processes, None
        if sizes is not None:
            # Which shards a process has changes with the epoch: what the smallest of them hold,
            # every process has in every epoch, and so all end together.
            least, self.images = sum(sorted(sizes)[: len(sizes) // processes]), sum(sizes)
        self._order |= {"workers": self._workers, "buffer": buffer}
        self.note = f"images are read shard by shard, in {self._processes}"
        loader = StreamLoader(
            source,
            self._cutter,
            batch_size=size,
            images=least,
            augment=self._by_workers,
            workers=self._workers,
            buffer=buffer,
            pin_memory=self._device.type == "cuda",
            **order,
        )
        if least is not None:
            self.note = f"{self.images:,} {self.note}"
            _expect_a_batch(least, size, processes)
        return loader

    @property
    def _by_workers(self) -> Augment | None:
        return self._augment if self._device.type == "cpu" else None

    @property
    def _processes(self) -> str:
        return f"{counted(self._workers, 'process')}" if self._workers else "the calling process"

    def __len__(self) -> int:
        """Return the number of batches of an epoch.

        Raises:
            TypeError: If it is not known, see `shard_sizes`.
        """
        if self._parts.batches is None:
            raise TypeError(
                "how many batches there are is not known before the images are read. Give the "
                "images of each shard: `shard_sizes`."
            )
        return self._parts.batches

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch, or those that are left of one that is resumed."""
        epoch, start, batches = self._epoch, self._start, self._parts.batches
        self._start, self._done = 0, start
        with closing(self._augmented(epoch, start)) as augmented:
            for batch in augmented:
                self._done += 1
                if self._done == batches:
                    self._end(epoch)
                yield batch
        if self._epoch == epoch:
            self._end(epoch)

    def _augmented(self, epoch: int, start: int) -> Generator[Batch]:
        def made() -> Generator[Batch]:
            if self._by_workers and not isinstance(self._parts, ResidentLoader):
                yield from self._parts.epoch(epoch, start, augmented=True)
                return
            for crops in self.crops(epoch, start):
                yield self._augment.augmented(crops, epoch)

        if self._device.type == "cuda" and isinstance(self._parts, ResidentLoader):
            return ahead_on_gpu(made, self._device)
        return made()

    def _end(self, epoch: int) -> None:
        self._epoch, self._start, self._done = epoch + 1, 0, 0

    def crops(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch as uint8 crops, before colours, blur and flips.

        Args:
            epoch: Number of the epoch; that of the next iteration stays as it is.
            start: Batches to leave out.
        """
        return self._parts.epoch(epoch, start)

    def use_boxes(self, boxes: Boxes | None) -> None:
        """Cut views from other boxes, from the next epoch on; workers that run see them, too.

        Args:
            boxes: A box set, or its folder: a local path or an address. None: random crops.

        Raises:
            CcropError: If the box set cannot be read, or lacks images and that is an error; where
                images are streamed, an epoch raises that when it comes to them.
        """
        self._parts.use_boxes(boxes)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be of an epoch.

        Args:
            epoch: Number of the epoch. One that `load_state_dict` has resumed stays resumed.
        """
        if epoch != self._epoch:
            self._epoch, self._start, self._done = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Return where iterating is: the epoch, and the number of its batches that were handed out.

        Boxes are not kept: resume with the same ones.
        """
        return {"epoch": self._epoch, "batch": self._done, **self._order}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Resume: let the next iteration yield what was left of the epoch.

        Args:
            state: From `state_dict`, of a loader with the same seed, batch size and world size;
                where images are streamed, with the same workers and buffer.

        Raises:
            CcropError: If the state is of a loader with others.
        """
        order = {name: value for name, value in state.items() if name not in ("epoch", "batch")}
        if changed := differences(order, self._order):
            raise CcropError(
                f"the state is of a loader that is not the same: {', '.join(changed)}. The order "
                "of the images depends on these: take what they were, or begin with set_epoch."
            )
        self._epoch, self._start = state["epoch"], state["batch"]
        self._done = self._start


def _expect_in_range(**least_zero: float) -> None:
    for name, value in least_zero.items():
        if not 0 <= value < 2**64:
            raise SettingError(f"`{name}` is {value}; it must be 0 or more.")


def _expect_a_batch(images: int, batch_size: int, processes: int = 1) -> None:
    if images >= batch_size:
        return
    if processes == 1:
        raise SettingError(
            f"there are {counted(images, 'image')}, less than one batch of {batch_size}. Give "
            f"`batch_size={images}` or a lower one."
        )
    raise SettingError(
        f"of the shards, one of {processes} processes may have no more than "
        f"{counted(images, 'image')}, less "
        f"than its {batch_size} of a batch. Lower `batch_size`, start fewer processes, or pack "
        "the images into more shards of equal size."
    )
