import io
import threading
import time

import pytest
from PIL import Image

from ccrop_pipeline.base import StageSeconds
from ccrop_pipeline.compute.pipeline import decoded_batches
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Sample, image_hash


def image(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (9, 7), (value, value, value)).save(out, "PNG")
    return out.getvalue()


class Shards:
    """Shards of so many images each, read in order; may break after some images."""

    def __init__(self, *lengths, broken_after=None):
        self.lengths, self.broken_after, self.given = lengths, broken_after, 0
        self.shards = tuple(f"s{i}" for i in range(len(lengths)))

    def read(self, shard):
        for i in range(self.lengths[self.shards.index(shard)]):
            if self.given == self.broken_after:
                raise CcropError("the disk is gone")
            self.given += 1
            yield Sample(f"{shard}/{i}", image(i), i if i % 2 else None)


def decoded(source, shards, size, batch_size, threads, stages=None, device="cpu"):
    settings = {"size": size, "batch_size": batch_size, "threads": threads, "device": device}
    return decoded_batches(source, shards, **settings, stages=stages or StageSeconds())


@pytest.mark.parametrize(("threads", "device"), [(1, "cpu"), (3, "cpu"), (2, "cuda")])
@pytest.mark.parametrize("lengths", [(7,), (4, 8, 3), (0,), (0, 4, 0, 0, 1), ()])
def test_batches_hold_every_image_in_order_and_end_with_their_shard(lengths, threads, device):
    source = Shards(*lengths)
    batches = list(decoded(source, source.shards, 8, 4, threads, device=device))
    expected = []
    for shard, n in zip(source.shards, lengths, strict=True):
        starts = range(0, n, 4) if n else [0]
        expected += [(shard, range(start, min(start + 4, n)), start + 4 >= n) for start in starts]
    assert [(b.shard, len(b.keys), b.last) for b, _ in batches] == [
        (shard, len(rows), last) for shard, rows, last in expected
    ]
    for (batch, images), (shard, rows, _) in zip(batches, expected, strict=True):
        assert batch.keys == [f"{shard}/{i}" for i in rows]
        assert batch.hashes == [image_hash(image(i)) for i in rows]
        assert batch.labels == [i if i % 2 else None for i in rows]
        assert images.pixels[:, 0, 0, 0].tolist() == list(rows)
        assert images.sizes.tolist() == [[9, 7]] * len(rows)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_in_reading_comes_after_the_batches_before_it(device):
    source = Shards(6, 6, broken_after=9)
    batches = decoded(source, source.shards, 8, 2, 2, device=device)
    expected = [("s0", 0), ("s0", 2), ("s0", 4), ("s1", 0)]
    for shard, start in expected:
        assert next(batches)[0].keys == [f"{shard}/{start}", f"{shard}/{start + 1}"]
    with pytest.raises(CcropError, match="the disk is gone"):
        next(batches)


def test_reading_stays_a_few_batches_ahead():
    source = Shards(1000)
    batches = decoded(source, source.shards, 8, 4, 2)
    next(batches)
    time.sleep(0.3)
    # At the caller 1, in the queue 2, in the hand of the reader 1, and one image looked ahead.
    assert 4 < source.given <= 4 * 4 + 1
    batches.close()


def test_stages_are_told_how_long_they_took():
    stages = StageSeconds()
    source = Shards(40)
    list(decoded(source, source.shards, 64, 8, 1, stages))
    assert stages.read > 0
    assert stages.decode > 0
    assert (stages.forward, stages.write) == (0, 0)


def test_a_caller_that_leaves_leaves_no_thread_behind():
    before = threading.active_count()
    batches = decoded(Shards(1000), ("s0",), 8, 4, 3)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() == before
