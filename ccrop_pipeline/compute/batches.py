"""Reading ahead: batches of decoded images of one shard after the other, without a pause between.

A batch never spans two shards, so what a batch is made of depends on its shard alone.
"""

import queue
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ccrop_pipeline.compute.observer import StageSeconds
from ccrop_pipeline.sources import Sample, Source, image_hash
from ccrop_pipeline.views.whole import Squeezer, Squeezing, WholeImages

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
