"""Where windows fall in the long run: against torchvision and the published figures."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torchvision.transforms import RandomResizedCrop

from ccrop_pipeline.crops import UNIFORMS_PER_WINDOW, CropParams, sample_windows

FULL, CENTRE, CORNER, SMALL = (
    (0, 0, 1, 1),
    (0.25,) * 2 + (0.75,) * 2,
    (0, 0, 0.3, 0.3),
    (0.4,) * 2 + (0.6,) * 2,
)


def windows(box, size, params: CropParams, n: int, seed: int) -> np.ndarray:
    u = np.random.default_rng(seed).random((n, UNIFORMS_PER_WINDOW))
    return sample_windows(np.tile(np.array(box, float), (n, 1)), np.tile(size, (n, 1)), u, params)


def pair_iou(box, rule: str, alpha: float, n: int = 20_000) -> float:
    first, second = (windows(box, (224, 224), CropParams(rule, alpha), n, seed) for seed in (1, 2))
    start = np.maximum(first[:, :2], second[:, :2])
    end = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    shared = np.maximum(end - start, 0).prod(axis=1)
    return (shared / (first[:, 2:].prod(axis=1) + second[:, 2:].prod(axis=1) - shared)).mean()


def touches(drawn: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shares of windows at the top, left, bottom and right edge."""
    gaps = np.array(size)[::-1] - drawn[:, :2] - drawn[:, 2:]
    return np.concatenate([drawn[:, :2] == 0, gaps == 0], axis=1).mean(axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32), (90, 61)])
def test_full_box_and_alpha_1_are_random_resized_crop(size):
    n = 15_000
    torch.manual_seed(0)
    image = torch.empty(3, size[1], size[0])
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    )
    ours = windows(FULL, size, CropParams("overlap", alpha=1.0), n, 0)
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.001
    # The difference of two shares near .18 has deviation .0044 here.
    np.testing.assert_allclose(touches(ours, size), touches(theirs, size), atol=0.018)


def share_without_a_fit(shape: float, scale: tuple[float, float]) -> float:
    """Closed form: a candidate of area share s and ratio r is too high where s * shape > r."""
    low, high = scale

    def too_high(log_ratio: float) -> float:
        return 1 - np.clip((np.exp(log_ratio) / shape - low) / (high - low), 0, 1)

    ends = np.log(3 / 4), np.log(4 / 3)
    return (integrate.quad(too_high, *ends)[0] / (ends[1] - ends[0])) ** 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "shares"), [((0.2, 1.0), (0.008, 0.15, 0.49)), ((0.08, 1.0), (0.002, 0.037, 0.12))]
)
def test_in_panoramas_random_resized_crop_is_central_where_nothing_fits(scale, shares):
    """The figures of ContrastiveCrop's docstring and of README."""
    n, height = 10_000, 1000
    for shape, share in zip((2, 3, 4), shares, strict=True):
        assert share_without_a_fit(shape, scale) == pytest.approx(share, rel=0.05)
        image = torch.empty(1, 1, 1).expand(1, height, shape * height)
        torch.manual_seed(0)
        theirs = np.array(
            [RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(n)]
        )
        params = CropParams("overlap", 1.0, scale)
        ours = windows(FULL, (shape * height, height), params, n, 0)
        largest = (height, round(height * 4 / 3))  # height and width where nothing fits
        for drawn in (theirs, ours):
            fallback = (drawn[:, 2:] == largest).all(axis=1)
            assert fallback.mean() == pytest.approx(share, abs=0.02)
        for column in (2, 3):
            assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.001
        lefts = [drawn[(drawn[:, 2:] == largest).all(axis=1), 1] for drawn in (theirs, ours)]
        slack = shape * height - largest[1]
        # A candidate may have this size as well, but seldom.
        assert (lefts[0] == slack // 2).mean() > 0.98
        if len(lefts[1]) > 50:
            assert stats.kstest(lefts[1] / slack, "uniform").pvalue > 0.001


def test_full_box_and_alpha_1_take_every_corner_equally_often():
    # One window size, and positions on an even grid: counts must be equal to the last one.
    n = 33
    u = np.full((n * 40, UNIFORMS_PER_WINDOW), 0.5)
    u[:, 20] = (np.arange(n * 40) + 0.5) / (n * 40)
    params = CropParams("overlap", alpha=1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    drawn = sample_windows(np.tile(FULL, (n * 40, 1)), np.full((n * 40, 2), 64), u, params)
    assert (drawn[:, 3] == 32).all()
    assert np.bincount(drawn[:, 1]).tolist() == [40] * n


def test_official_never_quite_reaches_the_far_edge():
    shares = touches(windows(FULL, (32, 32), CropParams("official", 1.0), 100_000, 0), (32, 32))
    np.testing.assert_allclose(shares, (0.220, 0.220, 0.039, 0.039), atol=0.005)


def test_official_with_a_small_alpha_never_reaches_the_far_edge_either():
    # In float64, 1.2 % of the draws of Beta(.1, .1) are 1.
    params = CropParams("official", 0.1, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    drawn = windows(FULL, (64, 64), params, 60_000, 0)
    assert drawn[:, :2].max() == 31
    # Corner c holds the draws in [c / 32, (c + 1) / 32).
    expected = np.diff(stats.beta(0.1, 0.1).cdf(np.arange(33) / 32)) * len(drawn)
    for corners in (drawn[:, 0], drawn[:, 1]):
        assert stats.chisquare(np.bincount(corners, minlength=32), expected).pvalue > 0.001


def test_official_stands_still_for_a_box_at_the_border():
    drawn = windows((0, 0, 0.2, 0.2), (224, 224), CropParams("official", 0.6), 5_000, 0)
    assert (drawn[:, :2] == 0).all()


def test_overlap_moves_for_a_box_at_the_border():
    drawn = windows((0, 0, 0.2, 0.2), (224, 224), CropParams("overlap", 0.6), 5_000, 0)
    # The corner has the 23 places up to the box's centre; the uniform law's deviation is 6.6.
    assert (drawn[:, :2].max(axis=0) == 22).all()
    assert (drawn[:, :2].std(axis=0) > 6.6).all()
    assert (drawn[:, :2] > 0).any(axis=1).mean() > 0.5


@pytest.mark.parametrize("rule", ["overlap", "paper"])
@pytest.mark.parametrize("alpha", [0.1, 0.6, 1.0])
def test_edges_are_touched_equally_often(rule, alpha):
    top, left, bottom, right = touches(
        windows(FULL, (32, 32), CropParams(rule, alpha), 40_000, 0), (32, 32)
    )
    assert abs(top - bottom) < 0.015
    assert abs(left - right) < 0.015


def test_a_small_alpha_seeks_the_ends():
    spread = [
        windows(CENTRE, (224, 224), CropParams("overlap", alpha), 5_000, 0)[:, :2].std()
        for alpha in (0.1, 0.6, 1.0, 5.0)
    ]
    assert spread == sorted(spread, reverse=True)


@pytest.mark.parametrize("rule", ["official", "paper", "overlap"])
def test_the_box_counts_in_a_panorama(rule):
    size, params = (2000, 100), CropParams(rule)
    boxes = {"left": (0, 0, 0.2, 1), "right": (0.8, 0, 1, 1)}
    left, right = (windows(box, size, params, 2_000, 0) for box in boxes.values())
    assert (left[:, 3] <= 133).all()
    # Centres of the windows stay within half a window of the box.
    assert (left[:, 1] + left[:, 3] / 2 <= 400 + 67).all()
    assert (right[:, 1] + right[:, 3] / 2 >= 1600 - 67).all()


@pytest.mark.parametrize(
    ("box", "rule", "expected"),
    [
        (FULL, "official", (0.508, 0.481, 0.424)),
        (FULL, "paper", (0.429, 0.422, 0.412)),
        (FULL, "overlap", (0.506, 0.476, 0.419)),
        (CENTRE, "official", (0.511, 0.482, 0.425)),
        (CENTRE, "paper", (0.466, 0.450, 0.418)),
        (CENTRE, "overlap", (0.507, 0.478, 0.424)),
        (CORNER, "official", (0.633, 0.635, 0.634)),
        (CORNER, "paper", (0.635, 0.636, 0.634)),
        (CORNER, "overlap", (0.567, 0.552, 0.527)),
        (SMALL, "official", (0.574, 0.559, 0.515)),
        (SMALL, "paper", (0.570, 0.554, 0.513)),
        (SMALL, "overlap", (0.509, 0.480, 0.422)),
    ],
)
def test_mean_iou_of_two_windows(box, rule, expected):
    found = [pair_iou(box, rule, alpha) for alpha in (1.0, 0.6, 0.1)]
    np.testing.assert_allclose(found, expected, atol=0.01)
