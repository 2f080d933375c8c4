"""The unit of work, whatever divides it up: data shards in, one file of rows for each out.

Reading, decoding, forward passes and writing go on at the same time. A batch never spans two
shards, so that the images of a batch depend on its shard alone. What is made of a batch, boxes or
embeddings, is for the caller to say.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.base import Observer, StageSeconds
from ccrop_pipeline.base.workers import deaths_explained, one_ahead
from ccrop_pipeline.errors import CcropError, SourceError
from ccrop_pipeline.images import Sample, Source, image_hash
from ccrop_pipeline.images.squares import NO_PROCESSES, ResizedImages, resized_batches
from ccrop_pipeline.localize import Encoder

Rows = TypeVar("Rows")
_AT_WORK = 2  # batches at the encoder: one in work, and one that follows without a pause
_REMEMBERED = 16  # keys of a shard


@dataclass
class Batch:
    """What is kept of some images of one shard, in source order; no pixels.

    Attributes:
        shard: Name of the shard.
        keys: Keys of the images.
        hashes: Hashes of their encoded bytes.
        labels: Their class indices, None where unknown.
        last: Whether the shard ends here. A shard without images has one batch without images.
    """

    shard: str
    keys: list[str]
    hashes: list[int]
    labels: list[int | None]
    last: bool


# What waits for the rows of a batch that was put to work.
Waiting = Callable[[], Rows]
Begin = Callable[[Batch, ResizedImages], Waiting[Rows]]


def run_shards(
    source: Source,
    shards: Sequence[str],
    encoder: Encoder,
    *,
    begin: Begin[Rows],
    written: Callable[[str, list[tuple[Batch, Rows]]], Callable[[], None]],
    batch_size: int,
    threads: int,
    observer: Observer,
) -> None:
    """Make the rows of some shards and write them, in order, at the speed of the slowest stage.

    Args:
        source: Images.
        shards: Names of shards of the source.
        encoder: What looks at the images.
        begin: Puts a batch to work.
        written: Takes the batches of a whole shard with their rows, and returns what writes
            them; that is called beside all other work.
        batch_size: Images a forward pass.
        threads: Images decoded at a time, by processes for a GPU, else by threads.
        observer: Hears how it goes.

    Raises:
        CcropError: If the source cannot be read, or for any reason of `begin` and `written`.
    """
    stages = StageSeconds()

    def write(shard: Callable[[], None]) -> None:
        started = time.perf_counter()
        shard()
        stages.write += time.perf_counter() - started

    batches = decoded_batches(
        source,
        shards,
        size=encoder.input_size,
        batch_size=batch_size,
        threads=threads,
        device=torch.device(encoder.device).type,
        stages=stages,
    )
    # A write that failed raises from its result only.
    with (
        deaths_explained(NO_PROCESSES),
        closing(batches),
        ThreadPoolExecutor(1, thread_name_prefix="write") as pool,
    ):
        writing: Future[None] | None = None
        parts: list[tuple[Batch, Rows]] = []
        for batch, rows in _in_turn(batches, begin, observer, stages):
            parts.append((batch, rows))
            if batch.last:
                shard, parts = written(batch.shard, parts), []
                if writing:  # one shard at a time waits to be written: memory stays flat
                    writing.result()
                writing = pool.submit(write, shard)
        if writing:
            writing.result()


def _in_turn(
    batches: Iterable[tuple[Batch, ResizedImages]],
    begin: Begin[Rows],
    observer: Observer,
    stages: StageSeconds,
) -> Iterator[tuple[Batch, Rows]]:
    """Yield the rows of batches, in order, a batch later than they are put to work."""
    at_work: deque[tuple[Batch, Waiting[Rows]]] = deque()

    def finish() -> tuple[Batch, Rows]:
        batch, wait = at_work.popleft()
        started = time.perf_counter()
        rows = wait()
        stages.forward += time.perf_counter() - started
        observer.images_done(len(batch.keys), batch.shard, stages)
        return batch, rows

    for batch, images in batches:
        started = time.perf_counter()
        at_work.append((batch, begin(batch, images)))
        stages.forward += time.perf_counter() - started
        if len(at_work) == _AT_WORK:
            yield finish()
    while at_work:
        yield finish()


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
            keys, labels = [sample.key for sample in now], [sample.label for sample in now]
            hashes = [image_hash(sample.image) for sample in now]
            yield Batch(shard, keys, hashes, labels, last), [sample.image for sample in now]


class Passes:
    """Runs forward passes; knows how much fits into the device's memory.

    Args:
        device: Where they run.
        run: A forward pass: rows `(n, ...)` of squares, uint8 `(n, 3, size, size)`.
        halved: Called with the new number of images a forward pass when it had to be halved.
    """

    def __init__(
        self,
        device: torch.device | str,
        run: Callable[[Tensor], Tensor],
        halved: Callable[[int], None],
    ) -> None:
        self._run, self._halved = run, halved
        self._on_gpu = torch.device(device).type == "cuda"
        self._at_a_time: int | None = None

    def begin(self, squares: NDArray[np.uint8]) -> Waiting[NDArray[Any]]:
        """Put one square or more to work; on a GPU this returns before the work is done.

        Raises:
            CcropError: If not even one image fits into the memory of the GPU.
        """
        rows, done = self._rows(torch.from_numpy(squares)), None
        if self._on_gpu:
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()

        def wait() -> NDArray[Any]:
            if done is not None:
                done.synchronize()
            return rows.numpy()

        return wait

    def _rows(self, pixels: Tensor) -> Tensor:
        if self._on_gpu:
            pixels = pixels.pin_memory()
        while True:
            at_a_time = min(self._at_a_time or len(pixels), len(pixels))
            try:
                parts = [self._run(part) for part in torch.split(pixels, at_a_time)]
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
        return torch.cat(parts).to("cpu", non_blocking=True)


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
