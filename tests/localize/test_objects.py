"""Several boxes from a heatmap, against components and pixels that are walked one by one."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.localize import BoxRule, boxes_from_heatmaps, object_boxes
from ccrop_pipeline.localize.cells import object_level

Cell = tuple[int, int]
FULL = [0.0, 0.0, 1.0, 1.0]
coarse = st.sampled_from([0.0, 0.25, 0.5, 1.0])
heatmaps = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda shape: npst.arrays(np.float16, shape, elements=st.floats(0, 1, width=16) | coarse)
)


def components(content: set[Cell]) -> list[set[Cell]]:
    """Sets of cells that a king of chess can walk between."""
    left, found = set(content), []
    while left:
        edge, reached = [min(left)], {min(left)}
        while edge:
            y, x = edge.pop()
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            edge += around - reached
            reached |= around
        found.append(reached)
        left -= reached
    return found


def taps(output: int, outputs: int, cells: int) -> dict[int, Fraction]:
    """Weights of the cells that an output of bilinear upsampling is mixed of."""
    position = (output + Fraction(1, 2)) * Fraction(cells, outputs) - Fraction(1, 2)
    position = min(max(position, Fraction(0)), Fraction(cells - 1))
    first = math.floor(position)
    weights = {first: 1 - (position - first)}
    if position > first:
        weights[first + 1] = position - first
    return weights


def slow_objects(
    heatmap: np.ndarray, threshold: Fraction, size: int, most: int
) -> list[list[float]]:
    """Boxes around the pixels of each component, found on the heatmap as it is."""
    h, w = heatmap.shape
    heat = {cell: Fraction(float(heatmap[cell])) for cell in np.ndindex(h, w)}
    parts = components({cell for cell in heat if heat[cell] > threshold})
    parts.sort(key=lambda part: (-sum(heat[cell] for cell in part), min(part)))
    pixels: list[list[Cell]] = [[] for _ in parts]
    for y, x in np.ndindex(size, size):
        down, across = taps(y, size, h), taps(x, size, w)
        value = sum(a * b * heat[i, j] for i, a in down.items() for j, b in across.items())
        if value > threshold:
            near = {(i, j) for i in down for j in across}
            (owner,) = (number for number, part in enumerate(parts) if part & near)
            pixels[owner].append((y, x))
    boxes = []
    for own in filter(None, pixels[:most]):
        ys, xs = zip(*own, strict=True)
        ends = (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
        boxes.append([float(np.float32(end / size)) for end in ends])
    return boxes


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(heatmaps, st.sampled_from([0.0, 0.125, 0.5]), st.integers(5, 13), st.integers(2, 4))
def test_objects_are_the_components_with_the_most_heat(maps, threshold, size, most) -> None:
    rule = BoxRule(threshold, objects=most)
    choices, found = object_boxes(torch.from_numpy(maps), rule, size, masks=False)
    for row, heatmap in enumerate(maps):
        expected = slow_objects(heatmap, Fraction(threshold), size, most)
        assert choices.of_row(row).tolist() == (expected or [FULL])
        assert found[row] == bool(expected)


def blobs() -> torch.Tensor:
    """Three blobs: two cells, three cells with less heat, and four."""
    heat = torch.zeros(1, 8, 8).half()
    heat[0, 0, 0:2], heat[0, 3:6, 1], heat[0, 5:7, 5:7] = 1.0, 0.625, 0.75
    return heat


TWO, THREE, FOUR = [0, 0, 2 / 8, 1 / 8], [1 / 8, 3 / 8, 2 / 8, 6 / 8], [5 / 8, 5 / 8, 7 / 8, 7 / 8]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (BoxRule(0.5, objects=2), [FOUR, TWO]),  # 3 and 2 of heat, 1.875 is left out
        (BoxRule(0.5, objects=4), [FOUR, TWO, THREE]),
        (BoxRule(0.7, objects=3), [FOUR, TWO]),
        # The mean is 6.875 / 64, so that the limits are 0.215 and 0.645.
        (BoxRule(0.0, mean_share=2, objects=3), [FOUR, TWO, THREE]),
        (BoxRule(0.43, mean_share=2, objects=3), [FOUR, TWO]),
    ],
)
def test_the_objects_of_three_blobs(rule: BoxRule, expected: list[list[float]]) -> None:
    # A grid of 8 cells on 8 pixels: pixels are cells.
    choices, found = object_boxes(blobs(), rule, 8, masks=False)
    assert choices.boxes.tolist() == np.float32(expected).tolist()
    assert found.tolist() == [True]


def test_margin_and_least_size_are_those_of_each_object() -> None:
    rule = BoxRule(0.5, objects=3, margin=0.5, min_size=0.375)
    choices, _ = object_boxes(blobs(), rule, 8, masks=False)
    expected = [
        [4 / 8, 4 / 8, 1, 1],
        [0, 0, 3 / 8, 3 / 8],
        # As wide as the least size about its middle, three eighths high and half of that on top.
        [0, 1.5 / 8, 3 / 8, 7.5 / 8],
    ]
    np.testing.assert_allclose(choices.boxes, expected, atol=1e-7)


def test_objects_of_a_mask_are_those_that_were_found_in_their_order() -> None:
    """They may touch, and the first may be the smallest."""
    mask = torch.zeros(2, 6, 6).half()
    mask[0, 0:3, 0:4] = object_level(1)
    mask[0, 1:3, 2:4] = object_level(0)
    mask[0, 3:6, 0:4] = object_level(2)
    rule = BoxRule(0.5, objects=2)
    choices, found = object_boxes(mask, rule, 48, masks=True)
    first, second = np.float32([2 / 6, 1 / 6, 4 / 6, 3 / 6]), np.float32([0, 0, 4 / 6, 3 / 6])
    assert choices.of_row(0).tolist() == [first.tolist(), second.tolist()]
    assert choices.of_row(1).tolist() == [FULL]
    assert found.tolist() == [True, False]


def test_without_images_there_are_no_boxes() -> None:
    for masks in (True, False):
        choices, found = object_boxes(
            torch.zeros(0, 3, 3).half(), BoxRule(0.5, objects=2), 8, masks=masks
        )
        assert (len(choices), len(found)) == (0, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mass": 0.5, "objects": 2}, "neither a mass"),
        ({"threshold": 0.5, "objects": 2, "component": "largest"}, "nor the largest component"),
        ({"threshold": 0.5, "objects": 0}, "objects is 0"),
        ({"threshold": 0.5, "objects": 33}, "objects is 33"),
    ],
)
def test_rules_that_make_no_sense(settings, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        BoxRule(**settings)


def test_the_box_of_a_rule_for_objects_is_that_of_everything() -> None:
    """Where only one box is asked for, as by an audit."""
    both = [boxes_from_heatmaps(blobs(), BoxRule(0.5, objects=n), 8)[0].tolist() for n in (1, 3)]
    assert both[0] == both[1]
