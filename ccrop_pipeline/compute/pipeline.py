"""The unit of work, whatever divides it up: data shards in, box shards out.

Reading, decoding, forward passes and writing go on at the same time. A batch never spans two
shards, so that the images of a batch depend on its shard alone.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.base import Location, Observer, StageSeconds
from ccrop_pipeline.base.workers import deaths_explained, one_ahead
from ccrop_pipeline.boxset import (
    EMPTY,
    FULL_BOX,
    OK,
    UNREADABLE,
    BoxTable,
    Choices,
    Provenance,
    write_shard_once,
)
from ccrop_pipeline.compute.rethreshold import with_rule
from ccrop_pipeline.errors import CcropError, SourceError
from ccrop_pipeline.images import Sample, Source, image_hash
from ccrop_pipeline.images.squares import NO_PROCESSES, ResizedImages, resized_batches
from ccrop_pipeline.localize import Localizer

_AT_WORK = 2  # batches at the encoder: one in work, and one that follows without a pause
_BOX_BYTES = 16
_COLUMNS = ("boxes", "sizes", "orientation", "status", "image_hash")
_REMEMBERED = 16  # keys of a shard
_NAMED = 3  # unreadable images in a message


def compute_shards(
    source: Source,
    shards: Sequence[str],
    localizer: Localizer,
    folder: Location,
    provenance: Provenance,
    *,
    batch_size: int,
    threads: int,
    heatmaps: bool,
    form: str,
    max_bad: float,
    observer: Observer,
) -> None:
    """Compute and write the boxes of some shards, in order, at the speed of the slowest stage.

    Args:
        source: Images.
        shards: Names of shards of the source, none of which is complete.
        localizer: Encoder, heatmap and rule.
        folder: The box set.
        provenance: What to write into every shard.
        batch_size: Images a forward pass.
        threads: Images decoded at a time, by processes for a GPU, else by threads.
        heatmaps: Whether heatmaps are kept.
        form: Form of the shards.
        max_bad: Greatest share of unreadable images.
        observer: Hears how it goes.

    Raises:
        CcropError: If the source cannot be read, repeats a key, or has too many unreadable images.
    """
    stages = StageSeconds()

    def write(shard: str, table: BoxTable) -> None:
        started = time.perf_counter()
        write_shard_once(folder, shard, table, provenance, form=form)
        stages.write += time.perf_counter() - started
        observer.shard_written(shard, len(table), int((table.status == UNREADABLE).sum()))

    size = localizer.encoder.input_size
    batches = decoded_batches(
        source,
        shards,
        size=size,
        batch_size=batch_size,
        threads=threads,
        device=torch.device(localizer.encoder.device).type,
        stages=stages,
    )
    rows = _located(batches, Locator(localizer, observer.batch_halved), observer, stages)
    seen: dict[str, str] = {}
    # A write that failed raises from its result only.
    with (
        deaths_explained(NO_PROCESSES),
        closing(batches),
        ThreadPoolExecutor(1, thread_name_prefix="write") as pool,
    ):
        writing: Future[None] | None = None
        for shard, table in _whole_shards(rows, heatmaps=heatmaps):
            _refuse_unreadable(shard, table, max_bad)
            refuse_repeated(shard, table.keys, seen)
            if writing:  # one shard at a time waits to be written: memory stays flat
                writing.result()
            writing = pool.submit(write, shard, table)
        if writing:
            writing.result()


@dataclass
class Batch:
    """What is kept of some images of one shard, in source order; no pixels.

    Attributes:
        shard: Name of the shard.
        keys: Keys of the images.
        hashes: Hashes of their encoded bytes.
        last: Whether the shard ends here. A shard without images has one batch without images.
    """

    shard: str
    keys: list[str]
    hashes: list[int]
    last: bool


_Part = tuple[Batch, list[bytes]]


def decoded_batches(
    source: Source,
    shards: Sequence[str],
    *,
    size: int,
    batch_size: int,
    threads: int,
    device: str,
    stages: StageSeconds,
) -> Generator[tuple[Batch, ResizedImages]]:
    """Yield the images of some shards in batches, read and decoded ahead of the caller.

    Args:
        source: Where the shards are.
        shards: Names of the shards, in order.
        size: Side in pixels of the square that every image is resized to.
        batch_size: Images a batch; the last one of a shard may be smaller.
        threads: Images that are decoded at the same time.
        device: Kind of the device that they are for, `cpu` or `cuda`.
        stages: Is told of the time that reading and decoding take.

    Raises:
        CcropError: If the source cannot be read; batches before the error come first.
    """
    read, batches = closing(one_ahead(_parts(source, shards, batch_size, stages))), deque[Batch]()

    with read as parts:

        def encoded() -> Iterator[list[bytes]]:
            for batch, images in parts:
                batches.append(batch)
                yield images

        for images in resized_batches(encoded(), size, threads=threads, device=device):
            stages.decode += images.seconds / threads
            yield batches.popleft(), images


def _parts(
    source: Source, shards: Sequence[str], size: int, stages: StageSeconds
) -> Generator[_Part]:
    """Cut each shard into batches of `size` images; yield them with the encoded images."""
    for shard in shards:
        part: list[Sample] = []
        samples, last = source.read(shard), False
        while not last:
            started = time.perf_counter()
            # One more than needed, to know whether there is one more.
            part += islice(samples, size + 1 - len(part))
            stages.read += time.perf_counter() - started
            now, part, last = part[:size], part[size:], len(part) <= size
            hashes = [image_hash(sample.image) for sample in now]
            batch = Batch(shard, [sample.key for sample in now], hashes, last)
            yield batch, [sample.image for sample in now]


class Locator:
    """Locates content in batch after batch; knows how much fits into the device's memory.

    Args:
        localizer: Encoder, heatmap and rule.
        halved: Called with the new number of images a forward pass when it had to be halved.
    """

    def __init__(self, localizer: Localizer, halved: Callable[[int], None]) -> None:
        self._localizer, self._halved = localizer, halved
        self._on_gpu = torch.device(localizer.encoder.device).type == "cuda"
        self._at_a_time: int | None = None

    def begin(self, batch: Batch, images: ResizedImages) -> Callable[[], BoxTable]:
        """Put a batch to work; on a GPU this returns before the work is done.

        Args:
            batch: Keys and hashes of the images.
            images: Their pixels and sizes.

        Returns:
            What waits for the batch and gives its rows: the full box where nothing was found, a
            heatmap of zeros as well where the image is unreadable.

        Raises:
            CcropError: If not even one image fits into the memory of the GPU.
        """
        rows, grid = self._forward(torch.from_numpy(images.pixels))
        done = None
        if self._on_gpu:
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()

        def wait() -> BoxTable:
            if done is not None:
                done.synchronize()
            found = rows.numpy()
            status = np.where(found[:, _BOX_BYTES].astype(bool), OK, EMPTY).astype(np.uint8)
            status[~images.readable] = UNREADABLE
            boxes = found[:, :_BOX_BYTES].copy().view(np.float32)
            boxes[status != OK] = FULL_BOX
            heatmaps = _heatmaps(found, grid)
            heatmaps[~images.readable] = 0
            columns = (images.sizes, images.orientation, status, np.array(batch.hashes, np.uint64))
            table = BoxTable(batch.keys, boxes, *columns, heatmaps)
            rule, size = self._localizer.rule, self._localizer.encoder.input_size
            if rule.objects == 1:
                return table
            return with_rule(table, rule, map_name=self._localizer.map, map_size=size)

        return wait

    def heatmaps(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Wait for the heatmaps `(n, h, w)` of squares, uint8 `(n, 3, size, size)`.

        Raises:
            CcropError: If not even one image fits into the memory of the GPU.
        """
        rows, grid = self._forward(torch.from_numpy(pixels))
        if self._on_gpu:
            torch.cuda.synchronize(self._localizer.encoder.device)
        return _heatmaps(rows.numpy(), grid)

    def _forward(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Give box, whether one was found, and heatmap as bytes, (n, ...), and the grid."""
        if not len(pixels):
            return torch.empty((0, _BOX_BYTES + 3), dtype=torch.uint8), (1, 1)
        if self._on_gpu:
            pixels = pixels.pin_memory()
        while True:
            at_a_time = min(self._at_a_time or len(pixels), len(pixels))
            try:
                parts = [self._packed(part) for part in torch.split(pixels, at_a_time)]
                break
            except torch.OutOfMemoryError as error:
                if at_a_time == 1:
                    raise CcropError(
                        "not even one image fits into the memory of the device. Choose a smaller "
                        "`input_size`, or free memory that other programs hold."
                    ) from error
            # Outside of the handler: inside, the traceback keeps the tensors of the failed pass.
            self._at_a_time = at_a_time // 2
            torch.cuda.empty_cache()
            self._halved(self._at_a_time)
        # One copy for all; pinned and not waited for where it comes from a GPU.
        return torch.cat([part for part, _ in parts]).to("cpu", non_blocking=True), parts[0][1]

    def _packed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        heatmaps, boxes, found = self._localizer.locate(pixels)
        parts = (boxes, found[:, None], heatmaps.flatten(1))
        packed = torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=1)
        return packed, (heatmaps.shape[1], heatmaps.shape[2])


def _heatmaps(rows: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.float16]:
    return rows[:, _BOX_BYTES + 1 :].copy().view(np.float16).reshape(-1, *grid)


def _located(
    batches: Iterable[tuple[Batch, ResizedImages]],
    locator: Locator,
    observer: Observer,
    stages: StageSeconds,
) -> Iterator[tuple[Batch, BoxTable]]:
    """Yield the rows of batches, in order, a batch later than they are put to work."""
    at_work: deque[tuple[Batch, Callable[[], BoxTable]]] = deque()

    def finish() -> tuple[Batch, BoxTable]:
        batch, wait = at_work.popleft()
        started = time.perf_counter()
        table = wait()
        stages.forward += time.perf_counter() - started
        observer.images_done(len(table), batch.shard, stages)
        return batch, table

    for batch, images in batches:
        started = time.perf_counter()
        at_work.append((batch, locator.begin(batch, images)))
        stages.forward += time.perf_counter() - started
        if len(at_work) == _AT_WORK:
            yield finish()
    while at_work:
        yield finish()


def _whole_shards(
    rows: Iterable[tuple[Batch, BoxTable]], *, heatmaps: bool
) -> Iterator[tuple[str, BoxTable]]:
    """Join the rows of batches to those of shards, with heatmaps or without."""
    parts: list[BoxTable] = []

    def joined(column: str) -> Any:
        return np.concatenate([getattr(part, column) for part in parts])

    for batch, table in rows:
        parts.append(table)
        if batch.last:
            keys = [key for part in parts for key in part.keys]
            # A shard without images has no grid.
            maps = joined("heatmaps") if heatmaps and keys else None
            columns = {name: joined(name) for name in _COLUMNS}
            several = [part.choices for part in parts if part.choices is not None]
            choices = Choices.joined(several) if several else None
            yield batch.shard, BoxTable(keys, **columns, heatmaps=maps, choices=choices)
            parts = []


def _refuse_unreadable(shard: str, table: BoxTable, max_bad: float) -> None:
    bad = np.flatnonzero(table.status == UNREADABLE)
    # Rounded first: 0.58 * 50 is 28.999999999999996, and 29 of 50 images are meant.
    allowed = max(1, math.floor(round(max_bad * len(table), 6))) if max_bad else 0
    if len(bad) > allowed:
        names = ", ".join(repr(table.keys[row]) for row in bad[:_NAMED])
        raise SourceError(
            f"{len(bad)} of the {len(table)} images of the shard {shard!r} cannot be decoded, such "
            f"as {names}; at most {allowed} may be (max_bad={max_bad:g}). The shard was not "
            "written: mend the images, or allow more."
        )


def refuse_repeated(shard: str, keys: Sequence[str], seen: dict[str, str]) -> None:
    """Look for keys of earlier shards in one that is new, and add a few of its own to `seen`.

    Keys mostly repeat because every shard counts its images from 0: then the second shard shows
    it. Any other repetition is found when the manifest is written.

    Raises:
        CcropError: If a key of an earlier shard comes again.
    """
    repeated = seen.keys() & keys
    if repeated:
        key = min(repeated)
        raise SourceError(
            f"the key {key!r} is in the shards {seen[key]!r} and {shard!r}: keys must be unique, "
            "since boxes are found by them (rule B018). Pack the images again, `ccrop data pack`, "
            "with keys of their own."
        )
    seen.update(dict.fromkeys(keys[:: max(1, len(keys) // _REMEMBERED)], shard))
