import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from ccrop_pipeline.localize import BoxRule, boxes_from_heatmaps, min_max
from ccrop_pipeline.localize.cells import only_largest

coarse = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
grids = st.tuples(st.integers(1, 6), st.integers(1, 6))
any_heatmap = grids.flatmap(
    lambda grid: npst.arrays(np.float16, grid, elements=st.floats(0, 1, width=16) | coarse)
)
any_mass = st.sampled_from([0.1, 0.25, 0.5, 0.6, 0.9, 1.0]) | st.floats(0.01, 1)


def smallest_boxes(heatmap: np.ndarray, mass: float) -> list[tuple[int, int, int, int]]:
    """All boxes of cells that hold the mass, best first, by trying each in rational arithmetic."""
    height, width = heatmap.shape
    cell = [[Fraction(value) for value in row] for row in heatmap.tolist()]
    total = sum(map(sum, cell))
    found = []
    for y0, x0 in product(range(height), range(width)):
        for y1, x1 in product(range(y0 + 1, height + 1), range(x0 + 1, width + 1)):
            held = sum(sum(row[x0:x1]) for row in cell[y0:y1])
            if held >= Fraction(str(mass)) * total:
                found.append(((y1 - y0) * (x1 - x0), -held, y0, x0, y1, x1))
    found.sort()
    ties = [f for f in found if f[:2] == found[0][:2]]
    return [(x0, y0, x1, y1) for _, _, y0, x0, y1, x1 in ties]


def shares(box: tuple[int, int, int, int], height: int, width: int) -> list[float]:
    sizes = (width, height, width, height)
    return [float(np.float32(end / size)) for end, size in zip(box, sizes, strict=True)]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@example(np.full((1, 10), 0.5, np.float16), 0.9)  # nine of ten, though float 0.9 is a little more
@example(np.full((2, 3), 2**-24, np.float16), 0.5)
@given(any_heatmap, any_mass)
def test_mass_box_is_the_smallest_of_all_boxes(heatmap: np.ndarray, mass: float) -> None:
    boxes, found = boxes_from_heatmaps(torch.from_numpy(heatmap)[None], BoxRule(None, mass), 32)
    assert bool(found[0]) == bool(heatmap.any())
    if not heatmap.any():
        assert boxes[0].tolist() == [0, 0, 1, 1]
        return
    assert boxes[0].tolist() == shares(smallest_boxes(heatmap, mass)[0], *heatmap.shape)


def rough_heatmaps(n: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    sharpness = torch.rand(n, 1, 1, generator=generator) * 12
    return min_max(torch.rand(n, height, width, generator=generator) ** sharpness)


def test_mass_boxes_of_a_usual_grid_match_the_slow_rule() -> None:
    heatmaps = rough_heatmaps(6, 7, 7)
    boxes, _ = boxes_from_heatmaps(heatmaps, BoxRule(None, 0.6), 224)
    expected = [shares(smallest_boxes(one.numpy(), 0.6)[0], 7, 7) for one in heatmaps]
    assert boxes.tolist() == expected


RULES = [
    BoxRule(None, 0.6),
    BoxRule(0.4, component="largest"),
    BoxRule(0.3, margin=0.15),
    BoxRule(0.6, min_size=0.45),
    BoxRule(None, 0.4, margin=0.2, min_size=0.3),
    BoxRule(0.3, centre_weight=0.25, margin=0.1),
]


@pytest.mark.parametrize("rule", RULES)
def test_box_depends_on_no_batch(rule: BoxRule) -> None:
    # More maps than are in work at a time, for the larger grid as well.
    for heatmaps in (rough_heatmaps(300, 7, 9), rough_heatmaps(40, 30, 30)):
        boxes, found = boxes_from_heatmaps(heatmaps, rule, 224)
        for i in (0, 1, 17, len(heatmaps) - 1):
            one, _ = boxes_from_heatmaps(heatmaps[i : i + 1], rule, 224)
            assert torch.equal(one[0], boxes[i])
        assert found.all()
        assert (boxes[:, :2] < boxes[:, 2:]).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("grid", [(7, 7), (5, 8)])
def test_mirrored_and_transposed_maps_have_such_boxes(rule: BoxRule, grid: tuple[int, int]) -> None:
    heatmaps = rough_heatmaps(64, *grid)
    boxes, _ = boxes_from_heatmaps(heatmaps, rule, 60)
    mirrored, _ = boxes_from_heatmaps(heatmaps.flip(2), rule, 60)
    expected = torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], dim=1)
    torch.testing.assert_close(mirrored, expected, rtol=0, atol=2e-7)
    transposed, _ = boxes_from_heatmaps(heatmaps.transpose(1, 2), rule, 60)
    assert torch.equal(transposed, boxes[:, [1, 0, 3, 2]])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(any_heatmap, any_mass)
def test_mirrored_mass_boxes_are_exact_where_one_box_is_best(
    heatmap: np.ndarray, mass: float
) -> None:
    assume(heatmap.any())
    best = smallest_boxes(heatmap, mass)
    assume(len(best) == 1)
    x0, y0, x1, y1 = best[0]
    height, width = heatmap.shape
    mirrored = torch.from_numpy(heatmap[:, ::-1].copy())[None]
    boxes, _ = boxes_from_heatmaps(mirrored, BoxRule(None, mass), 32)
    assert boxes[0].tolist() == shares((width - x1, y0, width - x0, y1), height, width)


def component_of(content: set[tuple[int, int]], start: tuple[int, int]) -> set[tuple[int, int]]:
    """Cells that a king of chess can reach within the content."""
    reached, edge = {start}, [start]
    while edge:
        y, x = edge.pop()
        around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
        edge += (around & content) - reached
        reached |= around & content
    return reached


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)).flatmap(
        lambda shape: npst.arrays(np.float16, shape, elements=st.floats(0, 1, width=16) | coarse)
    ),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_only_the_largest_component_is_kept(maps: np.ndarray, threshold: float) -> None:
    kept = only_largest(torch.from_numpy(maps), threshold).numpy()
    for one, result in zip(maps, kept, strict=True):
        content = {(y, x) for y, x in np.ndindex(*one.shape) if float(one[y, x]) > threshold}
        components = [component_of(content, cell) for cell in sorted(content)]
        components.sort(key=lambda c: (-len(c), -sum(Fraction(float(one[yx])) for yx in c), min(c)))
        largest = components[0] if components else set()
        for cell in np.ndindex(*one.shape):
            assert result[cell] == (0 if cell in content - largest else one[cell])


def test_the_component_keeps_its_pixels_and_the_others_lose_theirs() -> None:
    """Two blobs whose pixels do not touch: the box is that of the larger one alone."""
    heatmap = torch.zeros(1, 8, 8).half()
    heatmap[0, 1:4, 0:3], heatmap[0, 6, 5:7] = 1.0, 1.0
    alone = heatmap.clone()
    alone[0, 6] = 0
    rule = BoxRule(0.5, component="largest")
    boxes, found = boxes_from_heatmaps(heatmap, rule, 64)
    assert boxes.tolist() == [[0, 1 / 8, 3 / 8, 4 / 8]]
    assert found.all()
    both, _ = boxes_from_heatmaps(heatmap, BoxRule(0.5), 64)
    assert both.tolist() == [[0, 1 / 8, 7 / 8, 7 / 8]]


@settings(max_examples=100, deadline=None)
@given(any_heatmap, st.sampled_from([0.1, 0.4]), st.integers(6, 40))
def test_component_boxes_lie_within_the_box_of_everything(
    heatmap: np.ndarray, threshold: float, size: int
) -> None:
    maps = torch.from_numpy(heatmap)[None]
    (outer, found), (inner, any_left) = (
        boxes_from_heatmaps(maps, BoxRule(threshold, component=which), size)
        for which in ("all", "largest")
    )
    assert not (any_left & ~found).any()
    if any_left[0]:
        assert (inner[0, :2] >= outer[0, :2]).all()
        assert (inner[0, 2:] <= outer[0, 2:]).all()


def hot(first: int, end: int, cells: int = 20) -> Tensor:
    """A bar of hot cells; with a mass of 1 its box is the bar."""
    heatmap = torch.zeros(1, 1, cells).half()
    heatmap[0, 0, first:end] = 1
    return heatmap


@pytest.mark.parametrize(
    ("bar", "margin", "min_size", "expected"),
    [
        ((8, 12), 0.25, 0.0, (7 / 20, 13 / 20)),
        ((0, 4), 0.5, 0.0, (0, 6 / 20)),  # what leaves the image is cut
        ((18, 20), 3.0, 0.0, (12 / 20, 1)),
        ((8, 12), 0.0, 0.5, (5 / 20, 15 / 20)),  # about the centre
        ((1, 3), 0.0, 0.5, (0, 10 / 20)),  # moved inside
        ((17, 20), 0.0, 0.5, (10 / 20, 1)),
        ((8, 12), 0.5, 0.2, (6 / 20, 14 / 20)),  # large enough after the margin
        ((9, 11), 0.5, 0.4, (6 / 20, 14 / 20)),  # margin first, then the least size
        ((3, 4), 0.0, 1.0, (0, 1)),
        ((8, 12), 99.0, 0.0, (0, 1)),
    ],
)
def test_margin_and_least_size(
    bar: tuple[int, int], margin: float, min_size: float, expected: tuple[float, float]
) -> None:
    rule = BoxRule(None, 1.0, margin=margin, min_size=min_size)
    boxes, _ = boxes_from_heatmaps(hot(*bar), rule, 32)
    assert boxes[0, [0, 2]].tolist() == pytest.approx(expected, abs=1e-7)
    turned, _ = boxes_from_heatmaps(hot(*bar).transpose(1, 2), rule, 32)
    assert torch.equal(turned[0, [1, 3]], boxes[0, [0, 2]])


def test_a_centre_weight_moves_boxes_to_the_middle():
    def sides(**values: float) -> list[float]:
        boxes, _ = boxes_from_heatmaps(hot(2, 4), BoxRule(None, 1.0, **values), 32)
        assert boxes[0, [1, 3]].tolist() == pytest.approx(
            [values["centre_weight"] * 0.1, 1 - values["centre_weight"] * 0.1]
        )
        return boxes[0, [0, 2]].tolist()

    assert sides(centre_weight=1.0) == pytest.approx([0.1, 0.9])
    assert sides(centre_weight=0.5) == pytest.approx([(0.1 + 0.1) / 2, (0.2 + 0.9) / 2])
    assert sides(centre_weight=0.25) == pytest.approx([0.1, 0.75 * 0.2 + 0.25 * 0.9])
    assert sides(centre_weight=0.0) == pytest.approx([0.1, 0.2])
    cold, found = boxes_from_heatmaps(
        torch.zeros(1, 3, 3).half(), BoxRule(centre_weight=0.5, threshold=0.1), 32
    )
    assert not found.any()
    assert cold.tolist() == [[0, 0, 1, 1]]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(any_heatmap, any_mass, st.floats(0, 3), st.floats(0, 1))
def test_grown_boxes_hold_the_box_and_are_as_large_as_asked(
    heatmap: np.ndarray, mass: float, margin: float, min_size: float
) -> None:
    maps = torch.from_numpy(heatmap)[None]
    plain, _ = boxes_from_heatmaps(maps, BoxRule(None, mass), 32)
    grown, _ = boxes_from_heatmaps(maps, BoxRule(None, mass, margin=margin, min_size=min_size), 32)
    assert (grown[0, :2] <= plain[0, :2]).all()
    assert (grown[0, 2:] >= plain[0, 2:]).all()
    assert ((grown >= 0) & (grown <= 1)).all()
    assert (grown[0, 2:] - grown[0, :2] >= min_size - 1e-6).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 0.1, "mass": 0.5}, "at most one"),
        ({"mean_share": 0.5}, "added to a threshold"),
        ({"mass": 0.5, "mean_share": 0.5}, "added to a threshold"),
        ({"threshold": 0.1, "mean_share": 2.1}, "mean_share is .*it must be"),
        ({"threshold": 1.0}, "threshold is .*it must be"),
        ({"threshold": math.nan}, "threshold is .*it must be"),
        ({"threshold": None, "mass": 0.0}, "mass is .*it must be"),
        ({"threshold": None, "mass": 1.01}, "mass is .*it must be"),
        ({"component": "second"}, "component is .*it must be"),
        ({"threshold": None, "mass": 0.5, "component": "largest"}, "give no mass"),
        ({"margin": -0.1}, "margin is .*it must be"),
        ({"margin": math.inf}, "margin is .*it must be"),
        ({"centre_weight": 1.1}, "centre_weight is .*it must be"),
        ({"min_size": 1.1}, "min_size is .*it must be"),
        ({"min_size": math.nan}, "min_size is .*it must be"),
    ],
)
def test_rules_that_make_no_sense_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoxRule(**values)  # type: ignore[arg-type]
