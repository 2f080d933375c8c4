"""Boxes turned as Pillow turns images, by the function and by the lines of the document."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from ccrop_pipeline.boxset import upright

PAGE = Path(__file__).parents[2] / "docs/format.md"
WIDTH, HEIGHT = 40, 24  # of powers of two and small factors, so that edges are exact in float32


def by_the_document(boxes, orientation):
    (lines,) = re.findall(r"```python\n(FLIPPED = .*?)```", PAGE.read_text(), re.DOTALL)
    names = {"np": np, "boxes": boxes, "orientation": orientation}
    exec(compile(lines, "docs/format.md", "exec"), names)
    return names["boxes"]


def drawn(box, orientation):
    """Draw a box in the stored frame, let Pillow turn the image, and look where the box is."""
    image = Image.new("L", (WIDTH, HEIGHT))
    left, top, right, bottom = box
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=255)
    image.getexif()[0x0112] = orientation
    turned = ImageOps.exif_transpose(image)
    assert turned.size == ((WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH))
    return np.array(turned.getbbox()) / (*turned.size, *turned.size)


pixels = st.tuples(
    st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.integers(1, 40), st.integers(1, 24)
).map(lambda p: (p[0], p[1], min(WIDTH, p[0] + p[2]), min(HEIGHT, p[1] + p[3])))


@pytest.mark.parametrize("turn", [upright, by_the_document])
@pytest.mark.parametrize("orientation", range(1, 9))
@given(box=pixels)
def test_a_box_turns_with_its_image(turn, orientation, box):
    shares = np.array([box], np.float32) / np.float32([WIDTH, HEIGHT, WIDTH, HEIGHT])
    found = turn(shares, np.array([orientation], np.uint8))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], drawn(box, orientation), atol=1e-7)


@pytest.mark.parametrize("turn", [upright, by_the_document])
def test_each_row_has_an_orientation_of_its_own(turn):
    box = np.float32([0.125, 0.25, 0.5, 1])
    boxes, orientation = np.tile(box, (8, 1)), np.arange(1, 9, dtype=np.uint8)
    one_by_one = [turn(box[None], orientation[row : row + 1])[0] for row in range(8)]
    assert turn(boxes, orientation).tolist() == [found.tolist() for found in one_by_one]
    assert turn(boxes[:0], orientation[:0]).shape == (0, 4)


def test_one_orientation_may_be_for_all_boxes():
    boxes = np.float32([[0, 0, 0.25, 0.5], [0.5, 0, 1, 1]])
    assert upright(boxes, 6).tolist() == upright(boxes, np.uint8([6, 6])).tolist()
