"""The unit of work, whatever divides it up: data shards in, box shards out."""

import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from ccrop_pipeline.base import ComputeObserver, Location, StageSeconds
from ccrop_pipeline.boxset import (
    EMPTY,
    FULL_BOX,
    OK,
    UNREADABLE,
    BoxTable,
    Provenance,
    write_shard_once,
)
from ccrop_pipeline.compute.settings import ComputeSettings
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Sample, Source, image_hash
from ccrop_pipeline.images.squares import Squeezer, Squeezing, WholeImages
from ccrop_pipeline.localize import Encoder, Localizer

# Reading ahead: batches of decoded images of one shard after the other, without a pause between.
#
# A batch never spans two shards, so what a batch is made of depends on its shard alone.


_AHEAD = 2  # batches that are being decoded while one is at the encoder


@dataclass
class ShardBatch:
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


_Begun = tuple[ShardBatch, Squeezing] | BaseException | None


def decoded_batches(
    source: Source,
    shards: Sequence[str],
    size: int,
    batch_size: int,
    threads: int,
    stages: StageSeconds,
) -> Generator[tuple[ShardBatch, WholeImages]]:
    """Yields the images of some shards in batches, read and decoded ahead of the caller.

    Pixels come apart from what is kept of a batch, so that no shard's are held until it ends.

    Args:
        source: Where the shards are.
        shards: Names of the shards, in the order in which to read them.
        size: Side in pixels of the square that every image is squeezed into.
        batch_size: Images a batch; the last one of a shard may be smaller.
        threads: Decoding threads.
        stages: Is told of the time that reading and decoding take.

    Raises:
        CcropError: As reading the source does; batches before the error come first.
    """
    begun: queue.Queue[_Begun] = queue.Queue(_AHEAD)
    stop = threading.Event()
    with Squeezer(size, threads) as squeezer:
        reader = threading.Thread(
            target=_read,
            args=(source, shards, batch_size, squeezer, begun, stop, stages),
            name="read",
            daemon=True,  # a read that hangs must not keep a process from ending
        )
        reader.start()
        try:
            while (item := begun.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                batch, squeezing = item
                images = squeezing.result()
                stages.decode += images.seconds / threads
                yield batch, images
        finally:
            stop.set()


def _read(
    source: Source,
    shards: Sequence[str],
    batch_size: int,
    squeezer: Squeezer,
    out: queue.Queue[_Begun],
    stop: threading.Event,
    stages: StageSeconds,
) -> None:
    try:
        for shard in shards:
            for samples, last in _parts(source.read(shard), batch_size, stages):
                hashes = [image_hash(sample.image) for sample in samples]
                squeezing = squeezer.begin([sample.image for sample in samples])
                keys = [sample.key for sample in samples]
                if not _put(out, (ShardBatch(shard, keys, hashes, last), squeezing), stop):
                    return
        _put(out, None, stop)
    # Raised again where the batches are wanted: nobody hears an error that ends a thread.
    except BaseException as error:
        _put(out, error, stop)


def _parts(
    samples: Iterator[Sample], size: int, stages: StageSeconds
) -> Iterator[tuple[list[Sample], bool]]:
    """Cuts samples into lists of `size`, each with whether it is the last; none of none."""
    part: list[Sample] = []
    last = False
    while not last:
        started = time.perf_counter()
        # One more than needed, to know whether there is one more.
        part += islice(samples, size + 1 - len(part))
        last = len(part) <= size
        stages.read += time.perf_counter() - started
        yield part[:size], last
        part = part[size:]


def _put(out: queue.Queue[_Begun], item: _Begun, stop: threading.Event) -> bool:
    """Waits for room in the queue; gives up and returns False when nobody reads any more."""
    while not stop.is_set():
        try:
            out.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


_BOX_BYTES = 16


@dataclass
class Located:
    """Rows of some images.

    Attributes:
        boxes: float32 (n, 4).
        sizes: uint32 (n, 2).
        status: uint8 (n,).
        heatmaps: float16 (n, h, w).
    """

    boxes: np.ndarray
    sizes: np.ndarray
    status: np.ndarray
    heatmaps: np.ndarray


class Locator:
    """Locates content in batch after batch; knows how much fits into the device's memory.

    Args:
        localizer: Encoder, heatmap and rule.
        halved: Called with the new number of images a forward pass when it had to be halved.
    """

    def __init__(self, localizer: Localizer, halved: Callable[[int], None]) -> None:
        self._localizer = localizer
        self._halved = halved
        self._at_a_time: int | None = None

    def begin(self, images: WholeImages) -> "Locating":
        """Puts a batch to work and returns; on a GPU, before the work is done.

        Raises:
            CcropError: Not even one image fits into the memory of the GPU.
        """
        pixels = torch.from_numpy(images.pixels)
        if not len(pixels):
            return Locating(images, torch.empty((0, _BOX_BYTES + 3), dtype=torch.uint8), (1, 1))
        if torch.device(self._localizer.encoder.device).type == "cuda":
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
                        "--input-size, or free memory that other programs hold"
                    ) from error
            # Outside of the handler: inside, the traceback keeps the tensors of the failed pass.
            self._at_a_time = at_a_time // 2
            torch.cuda.empty_cache()
            self._halved(self._at_a_time)
        grid = parts[0][1]
        # One copy for all; pinned and not waited for where it comes from a GPU.
        rows = torch.cat([part for part, _ in parts]).to("cpu", non_blocking=True)
        done = None
        if pixels.is_pinned():
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return Locating(images, rows, grid, done)

    def _packed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        heatmaps, boxes, found = self._localizer.locate(pixels)
        parts = (boxes, found[:, None], heatmaps.flatten(1))
        packed = torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=1)
        return packed, (heatmaps.shape[1], heatmaps.shape[2])


@dataclass
class Locating:
    """A batch at work."""

    _images: WholeImages
    _rows: Tensor
    _grid: tuple[int, int]
    _done: torch.cuda.Event | None = None

    def result(self) -> Located:
        """Waits for the batch; what could not be located carries the full box."""
        if self._done is not None:
            self._done.synchronize()
        rows = self._rows.numpy()
        found = rows[:, _BOX_BYTES].astype(bool)
        status = np.where(found, OK, EMPTY).astype(np.uint8)
        status[~self._images.readable] = UNREADABLE
        boxes = rows[:, :_BOX_BYTES].copy().view(np.float32)
        boxes[status != OK] = FULL_BOX
        heatmaps = rows[:, _BOX_BYTES + 1 :].copy().view(np.float16).reshape(-1, *self._grid)
        heatmaps[~self._images.readable] = 0
        return Located(boxes, self._images.sizes, status, heatmaps)


_REMEMBERED = 16


class Repeats:
    """Remembers a few keys of every shard, and looks for them in those that follow.

    Where keys repeat, it is mostly because every shard counts its images from 0: then the second
    shard is enough to see it, after minutes and not after days. Any other repetition is found
    when the manifest is written.
    """

    def __init__(self) -> None:
        self._shard_of: dict[str, str] = {}

    def check(self, shard: str, keys: Sequence[str]) -> None:
        """Looks at the keys of a shard that is new.

        Raises:
            CcropError: A key of an earlier shard comes again.
        """
        repeated = self._shard_of.keys() & keys
        if repeated:
            key = min(repeated)
            raise CcropError(
                f"the key {key!r} stands in the shards {self._shard_of[key]!r} and {shard!r}: keys "
                "must be unique, since boxes are found by them (rule B018). Pack the images "
                "again, `ccrop data pack`, with keys of their own"
            )
        for key in keys[:: max(1, len(keys) // _REMEMBERED)]:
            self._shard_of[key] = shard


_NAMED = 3


class ShardWriter:
    """Takes batches in order; writes every shard in a thread once its last batch is there.

    Args:
        folder: The box set.
        provenance: What to write into every shard.
        settings: Form, whether heatmaps are kept, how much may be unreadable.
        stages: Is told of the time that writing takes.
        observer: Hears of each shard written.
    """

    def __init__(
        self,
        folder: Location,
        provenance: Provenance,
        settings: ComputeSettings,
        stages: StageSeconds,
        observer: ComputeObserver,
    ) -> None:
        self._folder, self._provenance, self._settings = folder, provenance, settings
        self._stages, self._observer = stages, observer
        self._gathered: list[tuple[ShardBatch, Located]] = []
        self._repeats = Repeats()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._writing: Future[None] | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None and self._writing:
            self._writing.result()

    def add(self, batch: ShardBatch, located: Located) -> None:
        """Takes the rows of a batch.

        Raises:
            CcropError: Too many images of the shard are unreadable, a key was seen before, or
                the shard before this one could not be written.
        """
        self._gathered.append((batch, located))
        if not batch.last:
            return
        table = _table(self._gathered, self._settings.heatmaps)
        self._gathered = []
        _check_readable(table, batch.shard, self._settings.max_bad)
        self._repeats.check(batch.shard, table.keys)
        if self._writing:  # one shard at a time waits to be written: memory stays flat
            self._writing.result()
        self._writing = self._pool.submit(self._write, batch.shard, table)

    def _write(self, shard: str, table: BoxTable) -> None:
        started = time.perf_counter()
        write_shard_once(self._folder, shard, table, self._provenance, self._settings.form)
        self._stages.write += time.perf_counter() - started
        unreadable = int((table.status == UNREADABLE).sum())
        self._observer.shard_written(shard, len(table), unreadable)


def _table(gathered: list[tuple[ShardBatch, Located]], heatmaps: bool) -> BoxTable:
    # An empty batch has no grid: it only says that the shard has ended.
    rows = [located for batch, located in gathered if batch.keys] or [gathered[0][1]]
    keep = heatmaps and bool(gathered[0][0].keys)
    return BoxTable(
        keys=[key for batch, _ in gathered for key in batch.keys],
        boxes=np.concatenate([part.boxes for part in rows]),
        sizes=np.concatenate([part.sizes for part in rows]),
        status=np.concatenate([part.status for part in rows]),
        image_hash=np.array([value for batch, _ in gathered for value in batch.hashes], np.uint64),
        heatmaps=np.concatenate([part.heatmaps for part in rows]) if keep else None,
    )


def _check_readable(table: BoxTable, shard: str, max_bad: float) -> None:
    bad = np.flatnonzero(table.status == UNREADABLE)
    # Rounded first: 0.58 * 50 is 28.999999999999996, and 29 of 50 images are meant.
    allowed = max(1, math.floor(round(max_bad * len(table), 6)))
    if len(bad) > allowed:
        names = ", ".join(repr(table.keys[row]) for row in bad[:_NAMED])
        raise CcropError(
            f"{len(bad)} of the {len(table)} images of the shard {shard!r} cannot be decoded, such "
            f"as {names}; at most {allowed} may be (--max-bad {max_bad:g}). The shard was not "
            "written: mend the images, or allow more"
        )


_FEWEST = 16
_AT_WORK = 2  # batches at the encoder: one in work, and one that follows without a pause


def compute_shards(
    source: Source,
    shards: Sequence[str],
    localizer: Localizer,
    folder: Location,
    provenance: Provenance,
    settings: ComputeSettings,
    observer: ComputeObserver,
) -> None:
    """Computes and writes the boxes of some shards, in order, at the speed of the slowest stage.

    Reading, decoding, forward passes and writing go on at the same time.

    Args:
        source: Images.
        shards: Names of shards of the source, none of which is complete.
        localizer: Encoder, heatmap and rule.
        folder: The box set.
        provenance: What to write into every shard.
        settings: Batch size, threads, form, how much may be unreadable.
        observer: Hears how it goes.

    Raises:
        CcropError: The source cannot be read, names two images with one key, or has too many
            unreadable images. Shards that were finished before stay.
    """
    stages, encoder = StageSeconds(), localizer.encoder
    batch_size = settings.batch_size or default_batch_size(encoder)
    threads = settings.threads or default_threads(encoder)
    batches = decoded_batches(source, shards, encoder.input_size, batch_size, threads, stages)
    locator = Locator(localizer, observer.batch_halved)
    at_work: deque[tuple[ShardBatch, Locating]] = deque()
    writer = ShardWriter(folder, provenance, settings, stages, observer)
    with closing(batches), writer:

        def finish() -> None:
            batch, locating = at_work.popleft()
            started = time.perf_counter()
            located = locating.result()
            stages.forward += time.perf_counter() - started
            observer.images_located(batch.shard, len(batch.keys), stages)
            writer.add(batch, located)

        for batch, images in batches:
            started = time.perf_counter()
            at_work.append((batch, locator.begin(images)))
            stages.forward += time.perf_counter() - started
            if len(at_work) == _AT_WORK:
                finish()
        while at_work:
            finish()


def default_threads(encoder: Encoder) -> int:
    """Decoding threads where nothing is said: all cores for a GPU, half of them beside a CPU.

    Every parallel region of a forward pass on a CPU waits for its slowest core, so each decoding
    thread beyond need costs more than it does.
    """
    cores = os.cpu_count() or 1
    on_cpu = torch.device(encoder.device).type == "cpu"
    return max(1, cores // 2) if on_cpu else cores


def default_batch_size(encoder: Encoder) -> int:
    """Images a batch where nothing is said: a power of two, by their pixels.

    On a CPU about those of 32 images of 96 px, which stay in its caches (16 images at the least),
    on a GPU of 512 images of 224 px.
    """
    on_cpu = torch.device(encoder.device).type == "cpu"
    pixels, most = (32 * 96**2, 256) if on_cpu else (512 * 224**2, 4096)
    fitting = max(_FEWEST, pixels // encoder.input_size**2)
    return min(most, 1 << round(math.log2(fitting)))
