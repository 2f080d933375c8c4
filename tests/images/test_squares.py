import io

import numpy as np
import pytest
from PIL import Image

from ccrop_pipeline.images.squares import resized_images


def encoded(value: int, size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 30])
@pytest.mark.parametrize("threads", [1, 3])
def test_images_come_in_order_with_their_sizes(batch_size, threads):
    images = [encoded(i, (20 + i, 10 + i)) for i in range(20)]
    images[5] = b"no image"
    batches = list(resized_images(images, 8, batch_size=batch_size, threads=threads))
    assert [len(batch.readable) for batch in batches][:-1] == [batch_size] * (len(batches) - 1)
    pixels = np.concatenate([batch.pixels for batch in batches])
    sizes = np.concatenate([batch.sizes for batch in batches])
    readable = np.concatenate([batch.readable for batch in batches])
    assert pixels.shape == (20, 3, 8, 8)
    assert readable.tolist() == [i != 5 for i in range(20)]
    assert sizes.tolist() == [[20 + i, 10 + i] if i != 5 else [0, 0] for i in range(20)]
    expected = [i if i != 5 else 128 for i in range(20)]
    assert (pixels == np.array(expected).reshape(-1, 1, 1, 1)).all()


def test_no_images_give_no_batch():
    assert list(resized_images([], 8, batch_size=4, threads=2)) == []


def test_images_are_read_at_most_two_batches_ahead():
    taken = []

    def images():
        for i in range(40):
            taken.append(i)
            yield encoded(i, (8, 8))

    batches = resized_images(images(), 8, batch_size=4, threads=2)
    next(batches)
    assert len(taken) == 8
    batches.close()
