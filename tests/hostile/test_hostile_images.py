"""Whatever their bytes, images have the pixels that another reader gives, or are refused."""

import io

import numpy as np
import pytest
from hostile_images import KINDS, verdicts
from PIL import Image
from second_png import NoPngError, read_png


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_of_each_kind_are_taken_or_refused(kind):
    few = range(6 if kind == "bombs" else 12)  # a bomb takes seconds
    assert set(verdicts(kind, few)) <= {"taken", "refused"}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_the_second_reader_of_png_gives_what_was_written(mode):
    drawn = np.random.default_rng(0)
    shape = (9, 13) if mode == "I;16" else (9, 13, 3)
    pixels = drawn.integers(0, 256, shape, np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels.astype(np.uint16) * 200)
        expected = np.asarray(image)[..., None]
    else:
        image = Image.fromarray(pixels).convert(mode)
        expected = np.asarray(image.convert("RGB" if mode in ("P", "RGB", "RGBA") else "L"))
        expected = expected.reshape(9, 13, -1)
        if mode == "1":
            expected = expected // 255
    file = io.BytesIO()
    image.save(file, "PNG")
    samples, depth, grey = read_png(file.getvalue())
    np.testing.assert_array_equal(samples, expected)
    assert (depth, grey) == ({"1": 1, "I;16": 16}.get(mode, 8), mode in ("1", "L", "LA", "I;16"))
    damaged = bytearray(file.getvalue())
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(NoPngError):
        read_png(bytes(damaged))
