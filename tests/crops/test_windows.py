"""Each window against a plain loop over the rules' definitions, and what must always hold."""

from fractions import Fraction
from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaincinv

from ccrop_pipeline.crops import RULES, UNIFORMS_PER_WINDOW, CropParams, sample_windows

# Boxes on a grid of 1/64 and sizes in whole pixels: all edges are exact, so that the oracle and
# the code cannot differ by rounding alone.
GRID = 64


def draws(seed: int, n: int = 1) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 2**32, (n, UNIFORMS_PER_WINDOW))
    return (cells + 0.5) * 2.0**-32


def slow_size(width: int, height: int, u: np.ndarray, params: CropParams) -> tuple[int, int]:
    for area_draw, shape_draw in zip(u[:10], u[10:20], strict=True):
        low, high = params.scale
        area = width * height * (low + (high - low) * area_draw)
        low, high = log(params.ratio[0]), log(params.ratio[1])
        shape = exp(low + (high - low) * shape_draw)
        w, h = round(sqrt(area * shape)), round(sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return w, h
    if width / height < params.ratio[0]:
        return width, max(1, round(width / params.ratio[0]))
    if width / height > params.ratio[1]:
        return max(1, round(height * params.ratio[1])), height
    return width, height


def slow_corner(near: Fraction, far: Fraction, w: int, n: int, u: float, params: CropParams) -> int:
    beta = u if params.alpha == 1 else float(betaincinv(params.alpha, params.alpha, u))
    if params.rule == "official":
        return authors_corner(float(near / n), float(far / n), w, n, beta)
    if params.rule == "paper":
        centre = float(near) + float(far - near) * beta
        nearest = min(range(-w, n + 1), key=lambda c: (abs(c + w / 2 - centre), -c * (beta > 0.5)))
        return min(max(nearest, 0), n - w)
    wanted = Fraction(params.min_overlap) * min(Fraction(w), far - near)
    shared = [min(c + w, far) - max(Fraction(c), near) for c in range(n - w + 1)]
    allowed = [c for c, s in enumerate(shared) if s >= wanted]
    if not allowed:
        # No integer corner is good enough: the two about the real-valued optimum.
        low = near + wanted - w
        allowed = [c for c in range(n - w + 1) if abs(Fraction(c) - low) < 1]
    return allowed[min(int(len(allowed) * beta), len(allowed) - 1)]


def authors_corner(h0: float, h1: float, h: int, height: int, beta: float) -> int:
    """Their lines, on what they have: edges and draws as tensors of float32, sides as integers."""
    h0, h1 = torch.tensor(h0, dtype=torch.float32), torch.tensor(h1, dtype=torch.float32)
    # `Beta.sample` ends below 1, see `_s_dirichlet_cpu` in aten/src/ATen/native/Distributions.cpp.
    sample = torch.tensor(beta, dtype=torch.float32).clamp(max=1 - 2**-24)
    ch0 = min(max(int(height * h0) - h // 2, 0), height - h)
    ch1 = min(max(int(height * h1) - h // 2, 0), height - h)
    return ch0 + int((ch1 - ch0) * sample)


@st.composite
def scenes(draw):
    width, height = draw(st.integers(1, 200)), draw(st.integers(1, 200))
    x = sorted(draw(st.tuples(st.integers(0, GRID), st.integers(0, GRID))))
    y = sorted(draw(st.tuples(st.integers(0, GRID), st.integers(0, GRID))))
    box = np.array([[x[0], y[0], x[1], y[1]]]) / GRID
    return box, np.array([[width, height]]), draws(draw(st.integers(0, 2**32 - 1)))


params_strategy = st.builds(
    CropParams,
    rule=st.sampled_from(RULES),
    alpha=st.sampled_from([0.1, 0.6, 1.0, 3.0]),
    scale=st.sampled_from([(0.2, 1.0), (0.05, 0.3), (1.0, 1.0)]),
    ratio=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (2.0, 3.0)]),
    min_overlap=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(scenes(), params_strategy)
def test_equals_a_plain_loop(scene, params):
    box, size, u = scene
    width, height = size[0].tolist()
    w, h = slow_size(width, height, u[0], params)
    edges = [Fraction(edge) for edge in box[0]]
    left = slow_corner(edges[0] * width, edges[2] * width, w, width, u[0, 20], params)
    top = slow_corner(edges[1] * height, edges[3] * height, h, height, u[0, 21], params)
    assert sample_windows(box, size, u, params).tolist() == [[top, left, h, w]]


@pytest.mark.parametrize("side", [32, 96, 224])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_official_rounds_as_the_authors_program(side, alpha):
    # Every box with edges on whole pixels, as theirs are: in float32 few products are exact.
    near, far = (np.triu_indices(side + 1)[i].astype(np.float32) / np.float32(side) for i in (0, 1))
    some = np.random.default_rng(1).permutation(len(near))[:1500]
    boxes = np.stack([near, near, far, far], axis=1)[some]
    u = draws(side, len(some))
    u[::3, 20:], u[1::3, 20:] = 2.0**-33, 1 - 2.0**-33  # draws next to 0 and 1
    params = CropParams("official", alpha)
    found = sample_windows(boxes, np.full((len(some), 2), side), u, params)
    for (left_edge, top_edge, right_edge, bottom_edge), numbers, window in zip(
        boxes, u, found, strict=True
    ):
        w, h = slow_size(side, side, numbers, params)
        across, down = (betaincinv(alpha, alpha, numbers[i]) for i in (20, 21))
        left = authors_corner(left_edge, right_edge, w, side, across)
        top = authors_corner(top_edge, bottom_edge, h, side, down)
        assert window.tolist() == [top, left, h, w]


def test_official_multiplies_in_float32():
    # 50 / 96 in float32 is less than 50 / 96, and times 96 in float32 it is 50 again.
    box = np.array([[50 / 96, 50 / 96, 1, 1]], np.float32)
    params = CropParams("official", scale=(0.23, 0.23), ratio=(1.0, 1.0))
    window = sample_windows(box, np.array([[96, 96]]), np.zeros((1, UNIFORMS_PER_WINDOW)), params)
    assert window.tolist() == [[27, 27, 46, 46]]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(scenes(), params_strategy.filter(lambda params: params.rule != "official"))
def test_mirrored_boxes_give_mirrored_windows(scene, params):
    box, size, u = scene
    width, height = size[0]
    top, left, h, w = sample_windows(box, size, u, params)[0]
    across, down = u.copy(), u.copy()
    across[:, 20], down[:, 21] = 1 - u[:, 20], 1 - u[:, 21]
    flipped_x = np.stack([1 - box[:, 2], box[:, 1], 1 - box[:, 0], box[:, 3]], axis=1)
    flipped_y = np.stack([box[:, 0], 1 - box[:, 3], box[:, 2], 1 - box[:, 1]], axis=1)
    mirrored = sample_windows(flipped_x, size, across, params)[0]
    assert mirrored.tolist() == [top, width - w - left, h, w]
    mirrored = sample_windows(flipped_y, size, down, params)[0]
    assert mirrored.tolist() == [height - h - top, left, h, w]


@settings(max_examples=200, deadline=None)
@given(scenes(), st.sampled_from([0.1, 0.5]), st.sampled_from([0.1, 0.6, 1.0]))
def test_overlap_keeps_its_promise(scene, min_overlap, alpha):
    box, size, u = scene
    params = CropParams("overlap", alpha=alpha, min_overlap=min_overlap)
    window = sample_windows(box, size, u, params)[0]
    for start, length, near, far in (
        (window[1], window[3], box[0, 0] * size[0, 0], box[0, 2] * size[0, 0]),
        (window[0], window[2], box[0, 1] * size[0, 1], box[0, 3] * size[0, 1]),
    ):
        shared = min(start + length, far) - max(start, near)
        assert shared >= min_overlap * min(length, far - near) - 0.001


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)),
    st.integers(0, 2**32 - 1),
    params_strategy,
)
def test_inside_the_image_with_area_and_shape_in_range(edges, size, seed, params):
    x, y = sorted(edges[:2]), sorted(edges[2:])
    box = np.array([[x[0], y[0], x[1], y[1]]], np.float32)
    window = sample_windows(box, np.array([size]), draws(seed), params)
    assert window.dtype == np.int64
    top, left, h, w = window[0].tolist()
    width, height = size
    assert h >= 1
    assert w >= 1
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    # A side is off by half a pixel at most. The shape binds even where no candidate fitted, the
    # area does not; such a window spans the image one way.
    low, high = params.ratio
    if min(h, w) > 1:
        assert low * (h - 0.51) <= w + 0.51
        assert w - 0.51 <= high * (h + 0.51)
    if h < height and w < width:
        assert (w - 0.5) * (h - 0.5) <= params.scale[1] * width * height * 1.0001
        assert (w + 0.5) * (h + 0.5) >= params.scale[0] * width * height * 0.9999


def test_rows_are_independent_of_the_batch():
    rng = np.random.default_rng(3)
    edges = np.sort(rng.random((64, 2, 2)), axis=1).reshape(64, 4)
    sizes = rng.integers(1, 500, (64, 2))
    u = draws(5, 64)
    for rule in RULES:
        whole = sample_windows(edges, sizes, u, CropParams(rule))
        single = [
            sample_windows(edges[i : i + 1], sizes[i : i + 1], u[i : i + 1], CropParams(rule))[0]
            for i in range(64)
        ]
        np.testing.assert_array_equal(whole, single)


def test_an_empty_batch():
    nothing = np.zeros((0, 4)), np.zeros((0, 2), int), np.zeros((0, UNIFORMS_PER_WINDOW))
    assert sample_windows(*nothing, CropParams()).shape == (0, 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3)])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0, 0, 0, 0), (1, 1, 1, 1), (0.3, 0, 0.3, 1)])
def test_tiny_images_and_degenerate_boxes(size, rule, box):
    n = 200
    boxes, sizes = np.tile(np.array(box, float), (n, 1)), np.tile(np.array(size), (n, 1))
    windows = sample_windows(boxes, sizes, draws(0, n), CropParams(rule))
    assert (windows[:, 2:] >= 1).all()
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, :2] + windows[:, 2:] <= sizes[:, ::-1]).all()


def test_boxes_in_float32_give_the_windows_of_exact_ones():
    n = 40
    edges = np.array([[i, 0, i + 12, n] for i in range(28)]) / n
    sizes = np.full((28, 2), n)
    params = CropParams("overlap", alpha=1.0, min_overlap=1.0)
    for seed in range(50):
        u = draws(seed, 28)
        exact = sample_windows(edges, sizes, u, params)
        np.testing.assert_array_equal(sample_windows(edges.astype("f4"), sizes, u, params), exact)


@pytest.mark.parametrize(("rule", "last"), [("official", 15), ("paper", 16), ("overlap", 24)])
def test_uniform_numbers_may_be_the_ends_of_the_interval(rule, last):
    # A window of 32 pixels in an image of 64, a box from 16 to 32.
    params = CropParams(rule, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    box, size = np.array([[0.25, 0.25, 0.5, 0.5]]), np.array([[64, 64]])
    for end, corner in ((0.0, 0), (1.0, last)):
        window = sample_windows(box, size, np.full((1, UNIFORMS_PER_WINDOW), end), params)
        assert window.tolist() == [[corner, corner, 32, 32]]


@pytest.mark.parametrize("rule", ["paper", "overlap"])
def test_half_pixels_are_rounded_alike_from_both_sides(rule):
    # An empty box on a pixel's edge: windows of odd width have their corner at a half.
    n = 200
    box, sizes, u = np.full((n, 4), 0.5), np.full((n, 2), 32), draws(4, n)
    mirrored = u.copy()
    mirrored[:, 20:] = 1 - u[:, 20:]
    windows, flipped = (sample_windows(box, sizes, v, CropParams(rule)) for v in (u, mirrored))
    assert (windows[:, 2:] % 2 == 1).any(axis=1).sum() > 50
    np.testing.assert_array_equal(flipped[:, :2], 32 - windows[:, 2:] - windows[:, :2])


@pytest.mark.parametrize(
    "wrong",
    [
        {"rule": "central"},
        {"alpha": 0.0},
        {"alpha": float("nan")},
        {"alpha": 101.0},
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 0.2)},
        {"scale": (0.2, 1.1)},
        {"ratio": (0.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"ratio": (1.0, float("inf"))},
        {"min_overlap": 0.0},
        {"min_overlap": 1.5},
    ],
)
def test_params_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CropParams(**wrong)


@pytest.mark.parametrize(
    ("box", "size", "numbers", "message"),
    [
        ([0.5, 0, 0.2, 1], [9, 9], UNIFORMS_PER_WINDOW, "box 0"),
        ([-0.1, 0, 1, 1], [9, 9], UNIFORMS_PER_WINDOW, "box 0"),
        ([0, 0, 1, 1.01], [9, 9], UNIFORMS_PER_WINDOW, "box 0"),
        ([0, float("nan"), 1, 1], [9, 9], UNIFORMS_PER_WINDOW, "box 0"),
        ([0, 0, 1, 1], [0, 9], UNIFORMS_PER_WINDOW, "at least 1"),
        ([0, 0, 1, 1], [9, 9], UNIFORMS_PER_WINDOW - 1, "shapes"),
        ([0, 0, 1], [9, 9], UNIFORMS_PER_WINDOW, "shapes"),
    ],
)
def test_wrong_arguments(box, size, numbers, message):
    with pytest.raises(ValueError, match=message):
        sample_windows(np.array([box]), np.array([size]), np.full((1, numbers), 0.5), CropParams())
