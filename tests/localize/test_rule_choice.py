"""The rule that sets itself: its figures against slow ones, and what it makes of made heatmaps."""

from itertools import product
from statistics import fmean, pstdev

import numpy as np
import pytest
import torch

from ccrop_pipeline.boxset import RuleChoice
from ccrop_pipeline.localize import BoxRule, boxes_from_heatmaps
from ccrop_pipeline.localize.rule_choice import (
    FEWEST,
    SIDES,
    THRESHOLDS,
    WINDOWS,
    choose_rule,
    draw_windows,
    first_fit,
    freedom,
    kappa,
)

GRID = 14


def made_boxes(n: int, seed: int) -> np.ndarray:
    corners = np.sort(np.random.default_rng(seed).uniform(0, 1, (n, 2, 2)), axis=1)
    return corners.reshape(n, 4)


def slow_kappa(boxes, inside, windows) -> float:
    def distance(box, cut, window) -> float:
        total = 0.0
        for axis in (0, 1):
            low, high = window[axis], window[2 + axis]
            clip = [min(1, max(0, (box[axis + at] - low) / (high - low))) for at in (0, 2)]
            total += ((clip[0] + clip[1]) / 2 - (cut[axis] + cut[2 + axis]) / 2) ** 2
        return total / 2

    n, k = inside.shape[:2]
    pairs = {
        (i, j): fmean(distance(boxes[i], inside[j, w], windows[j, w]) for w in range(k))
        for i, j in product(range(n), repeat=2)
    }
    own = fmean(pairs[i, i] for i in range(n))
    return 1 - own / fmean(value for (i, j), value in pairs.items() if i != j)


def test_kappa_is_one_minus_own_distance_over_that_to_all_others():
    boxes, inside = made_boxes(7, 0), made_boxes(7 * 2, 1).reshape(7, 2, 4)
    windows = np.stack([draw_windows(seed) for seed in range(7)])
    assert kappa(boxes, inside, windows) == pytest.approx(slow_kappa(boxes, inside, windows))


def test_kappa_of_boxes_that_are_all_alike_is_none():
    same = np.tile([0.2, 0.2, 0.6, 0.6], (5, 1))
    whole = np.tile([0.0, 0.0, 1.0, 1.0], (5, 2, 1))
    assert kappa(same, np.tile(same[:, None], (1, 2, 1)), whole) == 0.0
    assert kappa(same[:1], same[:1, None], whole[:1, :1]) == 0.0


def test_freedom_is_the_spread_of_centres_over_that_of_boxes_anywhere():
    boxes = made_boxes(9, 2)
    expected = []
    for axis in (0, 1):
        centres = [(box[axis] + box[2 + axis]) / 2 for box in boxes]
        side = fmean(box[2 + axis] - box[axis] for box in boxes)
        expected.append(pstdev(centres) * 12**0.5 / (1 - side))
    assert freedom(boxes) == pytest.approx(fmean(expected), rel=1e-4)


def test_boxes_that_lie_anywhere_have_all_freedom():
    corners = np.random.default_rng(0).uniform(0, 0.7, (20_000, 2))
    assert freedom(np.concatenate([corners, corners + 0.3], axis=1)) == pytest.approx(1, abs=0.02)


def test_windows_lie_in_the_image_and_depend_on_the_seed_alone():
    windows = np.stack([draw_windows(seed) for seed in range(200)])
    sides = windows[..., 2:] - windows[..., :2]
    assert windows.shape == (200, WINDOWS, 4)
    assert windows.min() >= 0
    assert windows.max() <= 1
    assert sides.min() >= SIDES[0] - 1e-9
    assert sides.max() <= SIDES[1] + 1e-9
    assert np.array_equal(windows[7], draw_windows(7))
    assert len(np.unique(windows)) == windows.size


@pytest.mark.parametrize(
    ("kappas", "freedoms", "areas", "expected"),
    [
        ((0.5, 0.5, 0.5), (3.0, 1.69, 1.67), (0.8, 0.5, 0.3), 2),  # 0.5 ** 0.75 is 0.5946
        ((0.5, 0.5, 0.5), (3.0, 1.69, 1.69), (0.8, 0.5, 0.3), None),
        ((0.5, 0.9, 0.74), (3.0, 2.0, 2.0), (0.8, 0.5, 0.3), 2),
        ((0.5, 0.9, 0.73), (3.0, 2.0, 2.0), (0.8, 0.5, 0.3), None),
        ((0.5, 0.5, 0.5), (0.1, 0.5, 1.0), (0.98, 0.97, 0.96), 2),
        ((0.1, 0.5, 0.5), (0.1, 0.5, 1.0), (0.5, 0.4, 0.3), 1),
        ((-1.0, 0.5, 0.5), (5.0, 0.5, 1.0), (0.5, 0.4, 0.3), 1),
        ((0.4, 0.85, 0.9), (0.1, 2.0, 1.0), (0.95, 0.5, 0.3), 2),  # nearly whole images at first
        ((0.8, 0.69, 0.67), (2.0, 1.0, 0.9), (0.8, 0.5, 0.3), 1),
        ((0.8, 0.67, 0.67), (2.0, 1.0, 0.9), (0.8, 0.5, 0.3), None),
        ((0.2, 0.1, 0.2), (0.5, 0.5, 0.5), (0.5, 0.4, 0.3), None),  # by chance
        ((0.9, 0.5, 0.5), (3.0, 0.5, 1.0), (0.98, 0.4, 0.3), 1),
        ((), (), (), None),
    ],
)
def test_the_first_threshold_whose_boxes_are_not_too_large_is_taken(
    kappas, freedoms, areas, expected
):
    choice = RuleChoice(9, 2, False, (0.1, 0.2, 0.3)[: len(kappas)], kappas, freedoms, areas)
    assert first_fit(choice) == expected


def spots(centres: np.ndarray, width: float, windows: np.ndarray, floor: float) -> np.ndarray:
    """Heatmaps of discs with soft rims at centres, as seen through windows: (..., GRID, GRID)."""
    middles = (np.arange(GRID) + 0.5) / GRID
    low, side = windows[..., :2], windows[..., 2:] - windows[..., :2]
    x = low[..., :1] + side[..., :1] * middles
    y = low[..., 1:] + side[..., 1:] * middles
    away = np.hypot(
        x[..., None, :] - centres[..., 0, None, None], y[..., :, None] - centres[..., 1, None, None]
    )
    heat = floor + (1 - floor) / (1 + np.exp((away - width) * 12))
    heat -= heat.min(axis=(-1, -2), keepdims=True)
    return (heat / heat.max(axis=(-1, -2), keepdims=True)).astype(np.float16)


def seen(centres: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = len(centres)
    windows = np.stack([draw_windows(seed) for seed in range(n)])
    whole = np.tile([0.0, 0.0, 1.0, 1.0], (n, 1))
    every = np.repeat(centres[:, None], WINDOWS, axis=1)
    return spots(centres, width, whole, 0.3), spots(every, width, windows, 0.3), windows


def found_share(rule: BoxRule, heatmaps: np.ndarray, centres: np.ndarray, width: float) -> float:
    boxes = boxes_from_heatmaps(torch.from_numpy(heatmaps), rule, GRID * 4)[0].numpy()
    true = np.concatenate([centres - width, centres + width], axis=1).clip(0, 1)
    low, high = np.maximum(boxes[:, :2], true[:, :2]), np.minimum(boxes[:, 2:], true[:, 2:])
    both = (high - low).clip(0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (true[:, 2:] - true[:, :2]).prod(axis=1)
    return float((both / (areas - both) >= 0.5).mean())


@pytest.mark.parametrize("width", [0.15, 0.2, 0.25])
def test_boxes_of_what_can_be_anywhere_are_found(width):
    centres = np.random.default_rng(0).uniform(width, 1 - width, (60, 2))
    heatmaps, inside, windows = seen(centres, width)
    rule, choice = choose_rule(BoxRule(margin=0.1), heatmaps, inside, windows, 224)
    assert (choice.images, choice.windows, choice.worthless) == (60, WINDOWS, False)
    assert choice.threshold == THRESHOLDS
    assert rule.threshold in THRESHOLDS
    assert (rule.mean_share, rule.margin, rule.component) == (0.5, 0.1, "all")
    at = THRESHOLDS.index(rule.threshold)
    assert choice.kappa[at] > 0.8
    bare = BoxRule(rule.threshold, mean_share=0.5)
    assert found_share(bare, heatmaps, centres, width) > 0.9
    assert found_share(BoxRule(0.1), heatmaps, centres, width) < 0.7


def test_figures_are_those_of_boxes_with_half_of_the_own_mean():
    heatmaps, inside, windows = seen(np.random.default_rng(1).uniform(0.2, 0.8, (40, 2)), 0.2)
    _, choice = choose_rule(BoxRule(), heatmaps, inside, windows, 56)
    at = 9

    def boxes(maps: np.ndarray) -> np.ndarray:
        rows = []
        for one in maps.reshape(-1, GRID, GRID):
            limit = THRESHOLDS[at] + 0.5 * float(one.astype(np.float64).mean())
            rows.append(boxes_from_heatmaps(torch.from_numpy(one)[None], BoxRule(limit), 56)[0][0])
        return torch.stack(rows).double().numpy()

    whole, cut = boxes(heatmaps), boxes(inside).reshape(40, WINDOWS, 4)
    area = (whole[:, 2:] - whole[:, :2]).prod(axis=1).mean()
    expected = slow_kappa(whole, cut, windows), freedom(whole), area
    assert (choice.kappa[at], choice.freedom[at], choice.mean_area[at]) == pytest.approx(
        expected, abs=1e-4
    )


def test_boxes_that_hang_in_corners_are_called_worthless():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 2, (80, 2)).astype(float)
    heatmaps, inside, windows = seen(corners, 0.1)
    # A window shows the corner that its image does, or any: the hot corner is the network's.
    any_corner = np.abs(corners[:, None] - (rng.random((80, WINDOWS, 1)) < 0.15))
    inside = spots(any_corner, 0.1, np.tile([0.0, 0.0, 1.0, 1.0], (80, WINDOWS, 1)), 0.3)
    rule, choice = choose_rule(BoxRule(), heatmaps, inside, windows, 224)
    assert choice.worthless
    assert (rule.threshold, rule.mean_share, rule.centre_weight) == (THRESHOLDS[0], 0.5, 0.5)
    several, _ = choose_rule(BoxRule(objects=3), heatmaps, inside, windows, 224)
    assert several == BoxRule(THRESHOLDS[0], mean_share=0.5, objects=3)


@pytest.mark.parametrize(("shifted", "weight"), [(0.2, 0.0), (0.45, 0.5)])
def test_boxes_that_agree_badly_are_moved_half_the_way_to_the_middle(shifted, weight):
    rng = np.random.default_rng(3)
    centres = rng.uniform(0.2, 0.8, (80, 2))
    heatmaps, _, windows = seen(centres, 0.2)
    elsewhere = centres[:, None] + rng.uniform(-shifted, shifted, (80, WINDOWS, 2))
    inside = spots(elsewhere, 0.2, windows, 0.3)
    rule, choice = choose_rule(BoxRule(), heatmaps, inside, windows, 224)
    kappa = choice.kappa[THRESHOLDS.index(rule.threshold)]
    assert not choice.worthless
    assert (kappa < 0.6) == (weight > 0)
    assert rule.centre_weight == weight


def test_boxes_of_noise_are_called_worthless():
    rng = np.random.default_rng(0)
    heatmaps, inside = (
        rng.random(shape).astype(np.float16) ** 8 for shape in ((80, 5, 5), (80, WINDOWS, 5, 5))
    )
    windows = np.stack([draw_windows(seed) for seed in range(80)])
    assert choose_rule(BoxRule(), heatmaps, inside, windows, 64)[1].worthless


def test_few_images_are_nothing_to_choose_by():
    few = FEWEST - 1
    heatmaps, inside, windows = seen(np.random.default_rng(0).uniform(0.2, 0.8, (few, 2)), 0.2)
    rule, choice = choose_rule(BoxRule(min_size=0.2), heatmaps, inside, windows, 64)
    assert rule == BoxRule(0.1, min_size=0.2)
    assert choice == RuleChoice(few, WINDOWS, worthless=False)
