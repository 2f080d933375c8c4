"""The unit of work, whatever divides it up: data shards in, box shards out."""

import math
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing

import torch

from ccrop_pipeline.boxset import Location, Provenance
from ccrop_pipeline.compute.batches import ShardBatch, decoded_batches
from ccrop_pipeline.compute.locate import Locating, Locator
from ccrop_pipeline.compute.observer import ComputeObserver, StageSeconds
from ccrop_pipeline.compute.settings import ComputeSettings
from ccrop_pipeline.compute.writing import ShardWriter
from ccrop_pipeline.localize import Encoder, Localizer
from ccrop_pipeline.sources import Source

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
