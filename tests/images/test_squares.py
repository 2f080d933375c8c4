import io
import multiprocessing

import numpy as np
import pytest
from PIL import Image

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images.squares import resized_images


def encoded(value: int, size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 30])
@pytest.mark.parametrize(("threads", "device"), [(1, "cpu"), (3, "cpu"), (2, "cuda")])
def test_images_come_in_order_with_their_sizes(batch_size, threads, device):
    images = [encoded(i, (20 + i, 10 + i)) for i in range(20)]
    images[5] = b"no image"
    batches = list(resized_images(images, 8, batch_size=batch_size, threads=threads, device=device))
    assert [len(batch.readable) for batch in batches][:-1] == [batch_size] * (len(batches) - 1)
    pixels = np.concatenate([batch.pixels for batch in batches])
    sizes = np.concatenate([batch.sizes for batch in batches])
    readable = np.concatenate([batch.readable for batch in batches])
    assert pixels.shape == (20, 3, 8, 8)
    assert readable.tolist() == [i != 5 for i in range(20)]
    assert sizes.tolist() == [[20 + i, 10 + i] if i != 5 else [0, 0] for i in range(20)]
    expected = [i if i != 5 else 128 for i in range(20)]
    assert (pixels == np.array(expected).reshape(-1, 1, 1, 1)).all()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_images_give_no_batch(device):
    assert list(resized_images([], 8, batch_size=4, threads=2, device=device)) == []


def test_large_parts_are_cut_and_joined_again():
    images = [encoded(i, (20 + i, 10 + i)) for i in range(20)]
    batches = [
        list(resized_images(images, 512, batch_size=11, threads=2, device=device))
        for device in ("cpu", "cuda")  # of 2 MB, so of two images each, for a GPU
    ]
    for here, there in zip(*batches, strict=True):
        for name in ("pixels", "sizes", "orientation", "readable"):
            np.testing.assert_array_equal(getattr(here, name), getattr(there, name))


@pytest.mark.parametrize(
    ("size", "by"), [((64, 70), 2), ((63, 90), 1), ((131, 128), 4), ((200, 127), 2)]
)
def test_a_jpeg_is_decoded_as_small_as_the_square_allows(size, by):
    """libjpeg's own reduction, by Pillow, and its resizing."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(out := io.BytesIO(), "JPEG", quality=95)
    opened = Image.open(out)
    opened.draft("RGB", (size[0] // by, size[1] // by))
    assert opened.size == (-(-size[0] // by), -(-size[1] // by))
    expected = np.asarray(opened.resize((32, 32), Image.Resampling.BILINEAR))
    (batch,) = resized_images([out.getvalue()], 32, batch_size=1, threads=1)
    np.testing.assert_array_equal(batch.pixels[0].transpose(1, 2, 0), expected)


def test_a_decoding_process_that_dies_is_named():
    def images():
        yield from (encoded(1, (8, 8)) for _ in range(200))
        for worker in multiprocessing.active_children():
            worker.kill()
        yield from (encoded(1, (8, 8)) for _ in range(200))

    with pytest.raises(CcropError, match=r"a loader process died: .*use fewer `threads`"):
        list(resized_images(images(), 8, batch_size=16, threads=2, device="cuda"))


def test_images_are_read_at_most_two_batches_ahead():
    taken = []

    def images():
        for i in range(40):
            taken.append(i)
            yield encoded(i, (8, 8))

    batches = resized_images(images(), 8, batch_size=4, threads=2)
    next(batches)
    assert len(taken) == 12
    batches.close()
