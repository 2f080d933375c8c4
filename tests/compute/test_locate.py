import numpy as np
import pytest
import torch

from ccrop_pipeline.boxset import EMPTY, OK, UNREADABLE
from ccrop_pipeline.compute import default_batch_size, default_threads
from ccrop_pipeline.compute.locating import Locator
from ccrop_pipeline.compute.pipeline import Batch
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images.squares import ResizedImages
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer

SIZE = 16


class Brightness(torch.nn.Module):
    """The image itself in cells of four pixels; memory for `room` images at a time."""

    def __init__(self, room=1000):
        super().__init__()
        self.room, self.seen = room, []

    def forward(self, images):
        self.seen.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no more memory")
        return torch.nn.functional.avg_pool2d(images, 4)


def located(module, images, halved=None):
    encoder = Encoder(module, "", SIZE, mean=(0, 0, 0), std=(1, 1, 1))
    halved = [] if halved is None else halved
    locator = Locator(Localizer(encoder, "sum", BoxRule(0.5)), halved.append)
    batches = [
        Batch("s", [f"{i}" for i in range(len(b.sizes))], [*range(len(b.sizes))], [], True)
        for b in images
    ]
    return [locator.begin(*pair)() for pair in zip(batches, images, strict=True)]


def batch(n, seed=0):
    """Black images with one white cell of four pixels each."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, SIZE // 4, (n, 2))
    pixels = np.zeros((n, SIZE, SIZE, 3), np.uint8)
    for image, (row, column) in zip(pixels, cells, strict=True):
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 255
    sizes = np.full((n, 2), SIZE, np.uint32)
    turns, readable = np.arange(1, n + 1, dtype=np.uint8), np.ones(n, bool)
    return ResizedImages(pixels.transpose(0, 3, 1, 2), sizes, turns, readable, 0.0), cells


def test_rows_hold_what_the_localizer_finds():
    images, cells = batch(5)
    images.readable[1] = False
    images.pixels[2] = 7
    (rows,) = located(Brightness(), [images])
    assert rows.orientation.tolist() == [1, 2, 3, 4, 5]
    assert rows.status.tolist() == [OK, UNREADABLE, EMPTY, OK, OK]
    assert rows.boxes[1:3].tolist() == [[0, 0, 1, 1]] * 2
    assert rows.heatmaps.shape == (5, 4, 4)
    assert not rows.heatmaps[1:3].any()
    for i in (0, 3, 4):
        hot = np.argwhere(rows.heatmaps[i] == 1)
        assert hot.tolist() == [cells[i].tolist()]
        centre = (rows.boxes[i, [1, 0]] + rows.boxes[i, [3, 2]]) / 2
        np.testing.assert_allclose(centre, (cells[i] + 0.5) / 4, atol=0.13)  # clamped at borders


def test_a_batch_without_images_has_no_rows():
    images, _ = batch(0)
    module = Brightness()
    (rows,) = located(module, [images])
    assert (rows.boxes.shape, rows.status.shape, len(rows.heatmaps)) == ((0, 4), (0,), 0)
    assert module.seen == []


def test_what_does_not_fit_is_halved_until_it_does_and_stays_so():
    images = [batch(12, seed)[0] for seed in range(3)]
    expected = located(Brightness(), images)
    module, halved = Brightness(room=5), []
    rows = located(module, images, halved)
    assert halved == [6, 3]
    assert module.seen == [12, 6, 3, 3, 3, 3] + [3, 3, 3, 3] * 2
    for ours, theirs in zip(rows, expected, strict=True):
        assert np.array_equal(ours.boxes, theirs.boxes)
        assert np.array_equal(ours.heatmaps, theirs.heatmaps)


def test_one_image_that_does_not_fit_is_an_error_for_people():
    with pytest.raises(CcropError, match="not even one image"):
        located(Brightness(room=0), [batch(3)[0]])


@pytest.mark.parametrize(
    ("size", "batch_size"), [(8, 256), (32, 256), (64, 64), (96, 32), (224, 16), (1024, 16)]
)
def test_a_batch_on_a_cpu_stays_in_the_caches(size, batch_size):
    assert default_batch_size(Encoder(Brightness(), "", size)) == batch_size


@pytest.mark.parametrize(("cores", "processes", "threads"), [(16, 1, 8), (16, 4, 2), (2, 8, 1)])
def test_processes_of_one_machine_share_its_cores(monkeypatch, cores, processes, threads):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    encoder = Encoder(Brightness(), "", 8)
    assert default_threads(encoder, processes) == threads
