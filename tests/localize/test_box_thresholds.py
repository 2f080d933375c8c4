import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from ccrop_pipeline.localize import BoxRule, boxes_from_heatmaps, min_max

FULL = (0.0, 0.0, 1.0, 1.0)


def bilinear_tap(output: int, outputs: int, cells: int) -> tuple[int, int, Fraction]:
    """Both neighbouring cells of an output, and the share of the second (align_corners=False)."""
    position = (output + Fraction(1, 2)) * Fraction(cells, outputs) - Fraction(1, 2)
    position = min(max(position, Fraction(0)), Fraction(cells - 1))
    first = math.floor(position)
    return first, min(first + 1, cells - 1), position - first


def slow_extent(heatmap: Tensor, threshold: float, size: int) -> tuple[int, int, int, int] | None:
    """The paper's rule as it is told: upsample, threshold, enclose. Rational arithmetic."""
    height, width = heatmap.shape
    cell = [[Fraction(value) for value in row] for row in heatmap.tolist()]
    rows, columns = [], []
    for y in range(size):
        for x in range(size):
            y0, y1, v = bilinear_tap(y, size, height)
            x0, x1, u = bilinear_tap(x, size, width)
            upper = (1 - u) * cell[y0][x0] + u * cell[y0][x1]
            lower = (1 - u) * cell[y1][x0] + u * cell[y1][x1]
            if (1 - v) * upper + v * lower > Fraction(threshold):
                rows.append(y)
                columns.append(x)
    return (min(columns), min(rows), max(columns), max(rows)) if rows else None


def slow_box(heatmap: Tensor, threshold: float, size: int) -> tuple[float, ...]:
    extent = slow_extent(heatmap, threshold, size)
    if extent is None:
        return FULL
    x0, y0, x1, y1 = extent
    return tuple(float(np.float32(p / size)) for p in (x0, y0, x1 + 1, y1 + 1))


def interpolated(heatmaps: Tensor, size: int) -> Tensor:
    return F.interpolate(heatmaps.double()[:, None], size=(size, size), mode="bilinear")[:, 0]


def boxes_of_full_maps(content: Tensor) -> Tensor:
    """Boxes by looking at every pixel of bool (n, size, size), one map after the other."""
    size = content.shape[1]
    boxes = []
    for one in content:
        y, x = one.nonzero(as_tuple=True)
        edges = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, size, size]
        boxes.append([int(edge) / size for edge in edges])
    return torch.tensor(boxes)


def random_heatmaps(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth and rough ones in turn, so that boxes of every extent come about."""
    generator = torch.Generator().manual_seed(seed)
    sharpness = torch.rand(n, 1, 1, generator=generator) * 12
    return min_max(torch.rand(n, height, width, generator=generator) ** sharpness)


# Multiples of a quarter meet the thresholds below exactly, which is where rounding would show.
coarse = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
grids = st.tuples(st.integers(1, 6), st.integers(1, 6))
any_heatmap = grids.flatmap(
    lambda grid: npst.arrays(np.float16, grid, elements=st.floats(0, 1, width=16) | coarse)
)
any_threshold = st.sampled_from([0.0, 0.05, 0.1, 0.125, 0.25, 0.5]) | st.floats(
    0, 1, exclude_max=True
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(any_heatmap, any_threshold, st.integers(1, 17))
def test_box_is_the_papers_rule_in_rational_arithmetic(
    heatmap: np.ndarray, threshold: float, size: int
) -> None:
    one = torch.from_numpy(heatmap)
    boxes, found = boxes_from_heatmaps(one[None], BoxRule(threshold), size)
    assert tuple(boxes[0].tolist()) == slow_box(one, threshold, size)
    assert bool(found[0]) == (slow_extent(one, threshold, size) is not None)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.5])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.475])
def test_a_share_of_the_own_mean_is_added_in_rational_arithmetic(threshold, share):
    heatmaps, steps = random_heatmaps(6, 5, 4, seed=3), 1 << 24
    heatmaps[0] = 1  # whose threshold is cut
    rule = BoxRule(threshold, mean_share=share)
    boxes, _ = boxes_from_heatmaps(heatmaps, rule, 16)
    for one, box in zip(heatmaps, boxes, strict=True):
        mean = sum(Fraction(float(cell)) for cell in one.flatten()) / one.numel()
        limit = math.floor(Fraction(threshold) * steps) + math.floor(mean * Fraction(share) * steps)
        limit = Fraction(min(limit, math.floor(Fraction(0.99) * steps)), steps)
        assert tuple(box.tolist()) == slow_box(one, limit, 16)
    for component in ("all", "largest"):
        own = replace(rule, component=component)
        alone = [boxes_from_heatmaps(one[None], own, 16)[0][0] for one in heatmaps]
        assert torch.equal(torch.stack(alone), boxes_from_heatmaps(heatmaps, own, 16)[0])


@pytest.mark.parametrize(
    ("grid", "size"),
    [
        *[((1, 1), 8), ((4, 4), 32), ((7, 7), 30), ((8, 8), 32), ((14, 14), 28), ((5, 9), 33)],
        *[((14, 14), 14), ((14, 14), 9), ((9, 4), 3), ((7, 7), 1)],
    ],
)
@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_usual_grids_match_the_slow_rule(
    grid: tuple[int, int], size: int, threshold: float
) -> None:
    heatmaps = random_heatmaps(3, *grid)
    boxes, _ = boxes_from_heatmaps(heatmaps, BoxRule(threshold), size)
    assert [tuple(box) for box in boxes.tolist()] == [
        slow_box(heatmap, threshold, size) for heatmap in heatmaps
    ]


# Where size / cells is a power of two every weight is a dyadic number, so that float64
# interpolation is exact as well and even ties must come out the same.
@pytest.mark.parametrize(("cells", "size"), [(7, 224), (7, 56), (14, 224), (8, 64), (4, 32)])
@pytest.mark.parametrize("threshold", [0.05, 0.125, 0.25, 0.5])
def test_equal_to_torch_upsampling_bit_for_bit(cells: int, size: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(cells + size)
    with_ties = torch.randint(0, 5, (48, cells, cells), generator=generator) / 4
    sparse = with_ties * (torch.rand(with_ties.shape, generator=generator) < 0.1)
    heatmaps = torch.cat([with_ties.half(), sparse.half(), random_heatmaps(48, cells, cells)])
    boxes, found = boxes_from_heatmaps(heatmaps, BoxRule(threshold), size)
    content = interpolated(heatmaps, size) > threshold
    assert torch.equal(boxes, boxes_of_full_maps(content))
    assert torch.equal(found, content.flatten(1).any(1))


@pytest.mark.parametrize(
    ("grid", "size"),
    [((7, 7), 225), ((7, 10), 160), ((12, 5), 97), ((9, 9), 4), ((6, 6), 6), ((13, 3), 51)],
)
def test_equal_to_torch_upsampling_away_from_ties(grid: tuple[int, int], size: int) -> None:
    heatmaps = random_heatmaps(64, *grid, seed=1)
    upsampled = interpolated(heatmaps, size)
    clear = ((upsampled - 0.1).abs() > 1e-9).flatten(1).all(1)
    assert clear.sum() > 50
    boxes, _ = boxes_from_heatmaps(heatmaps[clear], BoxRule(0.1), size)
    assert torch.equal(boxes, boxes_of_full_maps(upsampled[clear] > 0.1))


@pytest.mark.parametrize("size", [56, 224])
def test_one_hot_cell_at_half_is_that_cell(size: int) -> None:
    """Half-way to its neighbours the tent of a lone 1 falls to one half: the edges of its cell."""
    heatmaps = torch.eye(49).reshape(49, 7, 7).half()
    boxes, found = boxes_from_heatmaps(heatmaps, BoxRule(0.5), size)
    expected = [[c / 7, r / 7, (c + 1) / 7, (r + 1) / 7] for r in range(7) for c in range(7)]
    assert torch.equal(boxes, torch.tensor(expected))
    assert found.all()


@pytest.mark.parametrize("size", [1, 10, 32, 224])
def test_content_throughout_is_the_full_box(size: int) -> None:
    boxes, found = boxes_from_heatmaps(torch.ones(1, 7, 7).half(), BoxRule(0.1), size)
    assert boxes.tolist() == [list(FULL)]
    assert found.all()


@pytest.mark.parametrize("broken", [5.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_maps_without_a_box_get_the_full_one_and_disturb_no_other(
    broken: float, everywhere: bool
) -> None:
    maps = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(2)) ** 9 - 4
    alone, _ = boxes_from_heatmaps(min_max(maps), BoxRule(0.1), 224)
    if everywhere or broken == 5.0:
        maps[1] = broken
    else:
        maps[1, 2, 3] = broken
    boxes, found = boxes_from_heatmaps(min_max(maps), BoxRule(0.1), 224)
    assert found.tolist() == [True, False, True]
    assert boxes[1].tolist() == list(FULL)
    assert torch.equal(boxes[[0, 2]], alone[[0, 2]])


def test_all_negative_features_have_the_box_of_their_peak() -> None:
    maps = torch.full((1, 8, 8), -1000.0)
    maps[0, 2, 5] = -1.0
    boxes, found = boxes_from_heatmaps(min_max(maps), BoxRule(0.5), 64)
    assert boxes.tolist() == [[5 / 8, 2 / 8, 6 / 8, 3 / 8]]
    assert found.all()


@pytest.mark.parametrize("grid", [(7, 7), (5, 8), (14, 3)])
@pytest.mark.parametrize("size", [224, 50, 37, 4])
def test_mirrored_maps_have_mirrored_boxes(grid: tuple[int, int], size: int) -> None:
    heatmaps = random_heatmaps(64, *grid)
    boxes, _ = boxes_from_heatmaps(heatmaps, BoxRule(0.1), size)
    pixels = (boxes.double() * size).round()
    for axis, low, high in ((2, 0, 2), (1, 1, 3)):
        mirrored, _ = boxes_from_heatmaps(heatmaps.flip(axis), BoxRule(0.1), size)
        expected = pixels.clone()
        expected[:, low], expected[:, high] = size - pixels[:, high], size - pixels[:, low]
        assert torch.equal(mirrored, (expected / size).float())


def test_transposed_maps_have_transposed_boxes() -> None:
    heatmaps = random_heatmaps(64, 5, 8)
    boxes, _ = boxes_from_heatmaps(heatmaps, BoxRule(0.1), 60)
    transposed, _ = boxes_from_heatmaps(heatmaps.transpose(1, 2), BoxRule(0.1), 60)
    assert torch.equal(transposed, boxes[:, [1, 0, 3, 2]])


def test_box_depends_on_neither_batch_nor_memory_layout() -> None:
    heatmaps = random_heatmaps(256, 7, 7)
    boxes, found = boxes_from_heatmaps(heatmaps, BoxRule(0.1), 224)
    for i in range(0, 256, 37):
        assert torch.equal(
            boxes_from_heatmaps(heatmaps[i : i + 1], BoxRule(0.1), 224)[0][0], boxes[i]
        )
    wide = torch.zeros(7, 256, 14, dtype=torch.float16)
    wide[:, :, ::2] = heatmaps.transpose(0, 1)
    strided = wide[:, :, ::2].transpose(0, 1)
    assert not strided.is_contiguous()
    assert torch.equal(boxes_from_heatmaps(strided, BoxRule(0.1), 224)[0], boxes)
    assert found.all()


@settings(max_examples=50, deadline=None)
@given(any_heatmap, any_threshold, any_threshold, st.integers(1, 40))
def test_higher_threshold_has_a_box_inside(
    heatmap: np.ndarray, one: float, other: float, size: int
) -> None:
    maps = torch.from_numpy(heatmap)[None]
    (outer, _), (inner, found) = (
        boxes_from_heatmaps(maps, BoxRule(t), size) for t in sorted((one, other))
    )
    if found[0]:
        assert (inner[0, :2] >= outer[0, :2]).all()
        assert (inner[0, 2:] <= outer[0, 2:]).all()
        assert (inner[0, :2] < inner[0, 2:]).all()


def test_exact_at_the_largest_map_size() -> None:
    """Neighbouring float16 numbers on either side of the threshold, at the limit of float64."""
    below, above = np.float16(0.1), np.nextafter(np.float16(0.1), np.float16(1))
    assert float(below) < 0.1 < float(above)
    heatmaps = torch.zeros(1, 3, 3, dtype=torch.float16)
    heatmaps[0, 1, 1] = float(below)
    assert not boxes_from_heatmaps(heatmaps, BoxRule(float(below)), 11_585)[1].any()
    assert boxes_from_heatmaps(heatmaps, BoxRule(math.nextafter(float(below), 0)), 11_585)[1].all()
    with pytest.raises(ValueError, match="map_size must be in 1 to 11585, not 11586"):
        boxes_from_heatmaps(heatmaps, BoxRule(0.1), 11_586)


def test_empty_batch() -> None:
    boxes, found = boxes_from_heatmaps(torch.zeros(0, 7, 7).half(), BoxRule(0.1), 224)
    assert boxes.shape == (0, 4)
    assert found.shape == (0,)
    assert (boxes.dtype, found.dtype) == (torch.float32, torch.bool)


@pytest.mark.parametrize(
    ("heatmaps", "threshold", "size", "message"),
    [
        (torch.zeros(1, 7, 7), 0.1, 32, "must be float16"),
        (torch.zeros(7, 7).half(), 0.1, 32, r"not torch.float16 \(7, 7\)"),
        (torch.zeros(1, 0, 7).half(), 0.1, 32, "with cells"),
        (torch.full((1, 7, 7), 1.5).half(), 0.1, 32, "be in"),
        (torch.full((1, 7, 7), math.nan).half(), 0.1, 32, "be in"),
        (torch.zeros(1, 7, 7).half(), 1.0, 32, "threshold"),
        (torch.zeros(1, 7, 7).half(), math.nan, 32, "threshold"),
        (torch.zeros(1, 7, 7).half(), 0.1, 0, "map_size"),
    ],
)
def test_refuses(heatmaps: Tensor, threshold: float, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        boxes_from_heatmaps(heatmaps, BoxRule(threshold), size)
