"""What an audit calls boxes of known kinds, and its figures against slow ones."""

from dataclasses import replace
from itertools import product
from statistics import fmean, pstdev

import numpy as np
import pytest
import torch
from made_boxes import box_set, provenance, table
from torchvision.transforms.v2 import RandomResizedCrop

from ccrop_pipeline.boxset import EMPTY, OK, Choices, RuleChoice
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.localize import BoxRule
from ccrop_pipeline.report import audit
from ccrop_pipeline.report.crop_effect import MIDDLE, crop_effect
from ccrop_pipeline.report.spread import heat_of, spread_of
from ccrop_pipeline.report.verdict import shown

N = 200
WORTH, UNKNOWN = "follow the image", "cannot tell"
LITTLE, NOTHING = "carry little of the image", "carry nothing of the image"


def true_boxes(seed: int = 0) -> np.ndarray:
    """Boxes of objects of many sizes, anywhere."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0.2, 0.7, (N, 2))
    corners = rng.uniform(0, 1 - sides)
    return np.concatenate([corners, corners + sides], axis=1)


def jittered(box: list[float], by: float) -> np.ndarray:
    noise = np.random.default_rng(1).uniform(-by, by, (N, 4))
    return (np.array(box) + noise).clip(0, 1)


def chosen(kappa: float, *, worthless: bool = False, images: int = 100):
    """A provenance whose rule set itself, at a threshold with this kappa."""
    made = provenance(BoxRule(0.2, mean_share=0.5))
    figures = (0.1, 0.2), (0.9, kappa), (3.0, 0.9), (0.9, 0.5)
    choice = RuleChoice(images, 2, worthless, *figures)
    return replace(made, localizer=replace(made.localizer, mean_share=0.5, choice=choice))


def called(tmp_path, boxes, made_by=None, **rows):
    keys = [f"image{number}" for number in range(len(boxes))]
    return audit(box_set(tmp_path, [table(keys, boxes, **rows)], made_by))


@pytest.mark.parametrize(
    ("boxes", "kappa", "verdict"),
    [
        (true_boxes(), 0.7, WORTH),
        (true_boxes(), 0.02, NOTHING),  # boxes of other images, or anywhere
        (true_boxes(), -0.3, NOTHING),
        (true_boxes(), 0.15, LITTLE),
        (jittered([0.1, 0.1, 0.9, 0.9], 0.1), 0.5, LITTLE),
        (jittered([0, 0, 0.5, 0.5], 0.01), 0.9, NOTHING),  # corner boxes, of whatever area
        (jittered([0, 0, 0.98, 0.98], 0.02), 0.9, NOTHING),
        (np.tile([0.0, 0.0, 1.0, 1.0], (N, 1)), 0.0, NOTHING),
        (np.tile([0.25, 0.25, 0.75, 0.75], (N, 1)), 0.0, NOTHING),
    ],
)
def test_boxes_with_a_kappa_are_called_what_they_are(tmp_path, boxes, kappa, verdict):
    found = called(tmp_path, boxes, chosen(kappa))
    assert found.verdict == verdict
    assert (found.warning is None) == (verdict == WORTH)
    assert found.agreement.kappa == kappa
    assert found.agreement.images == 100
    assert found.own == pytest.approx(max(0, kappa) * (1 - found.spread.median_iou))


@pytest.mark.parametrize(
    ("boxes", "verdict"),
    [
        (true_boxes(), UNKNOWN),
        (np.roll(true_boxes(), 1, axis=0), UNKNOWN),
        (jittered([0.1, 0.1, 0.9, 0.9], 0.1), UNKNOWN),
        (jittered([0.1, 0.1, 0.9, 0.9], 0.04), LITTLE),
        (jittered([0, 0, 0.5, 0.5], 0.01), NOTHING),
        (np.tile([0.0, 0.0, 1.0, 1.0], (N, 1)), NOTHING),
        (np.tile([0.25, 0.25, 0.75, 0.75], (N, 1)), NOTHING),
    ],
)
@pytest.mark.parametrize("made_by", [None, provenance(BoxRule(0.1))])
def test_boxes_without_a_kappa_are_never_said_to_follow_the_image(
    tmp_path, boxes, verdict, made_by
):
    found = called(tmp_path, boxes, made_by)
    assert (found.verdict, found.agreement) == (verdict, None)
    assert found.own == pytest.approx(1 - found.spread.median_iou)
    assert found.advice


def test_a_rule_that_found_no_threshold_worth_anything_decides(tmp_path):
    assert called(tmp_path, true_boxes(), chosen(0.9, worthless=True)).verdict == NOTHING


def test_random_weights_are_called_what_they_are(tmp_path):
    made = chosen(0.7)
    untrained = replace(made, encoder=replace(made.encoder, epoch=0))
    found = called(tmp_path, true_boxes(), untrained)
    assert (found.verdict, found.reason) == (LITTLE, "the weights of the encoder are random.")


def test_too_few_images_to_choose_by_are_said_to_be(tmp_path):
    """The threshold is the paper's then, and another one may do."""
    made = provenance(BoxRule(0.1))
    few = replace(made.localizer, choice=RuleChoice(20, 2, worthless=False))
    heat = np.full((20, 8, 8), 0.2, np.float16)
    at = np.random.default_rng(0).integers(0, 6, (20, 2))
    for number, (x, y) in enumerate(at):
        heat[number, y : y + 3, x : x + 3] = 1
    boxes = np.tile((0, 0, 1, 1), (20, 1))
    found = called(tmp_path, boxes, replace(made, localizer=few), heatmaps=heat)
    assert found.verdict == NOTHING
    assert "here there were 20: compute boxes of more images" in found.advice
    assert (found.remedy.name, found.remedy.value) == ("threshold", 0.2)
    assert "`threshold` 0.2" in found.advice


def test_few_images_say_nothing_and_empty_rows_say_what_is_wrong(tmp_path):
    few = called(tmp_path / "few", true_boxes()[:31])
    assert (few.verdict, few.spread.images) == (UNKNOWN, 31)
    assert "31 images are too few" in few.reason
    status = np.where(np.arange(N) < N // 3, OK, EMPTY)
    boxes = np.where((status == OK)[:, None], true_boxes(), (0, 0, 1, 1))
    empty = called(tmp_path / "empty", boxes, chosen(0.9), status=status)
    assert empty.verdict == NOTHING
    assert "67% of the heatmaps" in empty.reason


def test_copies_of_a_few_images_are_said_to_be_alike(tmp_path):
    boxes = jittered([0, 0, 0.5, 0.5], 0.01)
    for different, verdict in ((31, UNKNOWN), (32, NOTHING)):
        hashes = np.arange(N) % different
        found = called(tmp_path / str(different), boxes, chosen(0.9), hashes=hashes)
        assert found.verdict == verdict
        assert ("the 200 looked at are copies of 31" in found.reason) == (verdict == UNKNOWN)
    assert (
        "train"
        not in called(tmp_path / "one", np.tile([0.0, 0, 1, 1], (N, 1)), hashes=np.ones(N)).advice
    )


@pytest.mark.parametrize(
    ("own", "text"),
    [
        (0.149, "0.149"),
        (0.15, "0.15"),
        (0.1449, "0.14"),
        (0.0496, "0.0496"),
        (0.05, "0.05"),
        (0.6149, "0.61"),
        (0.14999, "just below 0.1500"),
    ],
)
def test_a_figure_is_never_shown_on_the_other_side_of_a_limit(own, text):
    assert shown(own) == text


def overlap(box, other) -> float:
    sides = [min(box[2 + at], other[2 + at]) - max(box[at], other[at]) for at in (0, 1)]
    return max(0, sides[0]) * max(0, sides[1])


def area(box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def slow_iou(box, other) -> float:
    both = overlap(box, other)
    return both / (area(box) + area(other) - both)


def test_spread_is_the_iou_with_the_median_of_each_edge():
    boxes = true_boxes()[:21]
    median = [sorted(box[edge] for box in boxes)[10] for edge in range(4)]
    found = spread_of(boxes)
    assert found.images == 21
    assert found.median_box == pytest.approx(median)
    assert found.median_iou == pytest.approx(fmean(slow_iou(box, median) for box in boxes))
    spread = [pstdev((box[at] + box[2 + at]) / 2 for box in boxes) for at in (0, 1)]
    assert found.centre_spread == pytest.approx(fmean(spread))


def test_position_bias_is_the_correlation_with_the_mean_of_all_others():
    heatmaps = np.random.default_rng(0).random((9, 3, 4)).astype(np.float16)
    heatmaps[:, 1, 2] += 1
    heatmaps /= 2
    found = heat_of(np.concatenate([heatmaps, np.zeros((2, 3, 4), np.float16)]))
    cells = heatmaps.reshape(9, 12).astype(np.float64)
    expected = [
        np.corrcoef(cells[at], np.delete(cells, at, axis=0).mean(axis=0))[0, 1] for at in range(9)
    ]
    assert found.images == 9
    assert found.position_bias == pytest.approx(fmean(expected))
    assert np.array(found.mean) == pytest.approx(cells.mean(axis=0).reshape(3, 4), abs=1e-4)
    assert heat_of(heatmaps[:1]) is None


def test_plain_windows_are_those_of_random_resized_crop():
    boxes, n = true_boxes(), 20
    many = np.tile(boxes, (n, 1))
    found = crop_effect(many, np.tile([120, 90], (len(many), 1)), CropParams()).plain
    torch.manual_seed(0)
    image, crop = torch.empty(3, 90, 120), RandomResizedCrop(8, scale=(0.2, 1.0))
    drawn = [crop.make_params([image]) for _ in range(2 * len(many))]
    windows = [
        (
            d["left"] / 120,
            d["top"] / 90,
            (d["left"] + d["width"]) / 120,
            (d["top"] + d["height"]) / 90,
        )
        for d in drawn
    ]
    pairs = list(zip(windows[::2], windows[1::2], strict=True))
    assert found.pair_iou == pytest.approx(fmean(slow_iou(*pair) for pair in pairs), abs=0.01)
    shown = [
        overlap(window, box) / area(box)
        for pair, box in zip(pairs, many, strict=True)
        for window in pair
    ]
    assert found.box == pytest.approx(fmean(shown), abs=0.01)
    middle = [overlap(window, MIDDLE) / area(MIDDLE) for window in windows]
    assert found.middle == pytest.approx(fmean(middle), abs=0.01)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_windows_by_the_paper_show_what_a_slow_draw_shows(alpha):
    boxes = true_boxes()
    many, params = np.tile(boxes, (20, 1)), CropParams("paper", alpha, (0.3, 0.3), (1, 1))
    found = crop_effect(many, np.full((len(many), 2), 1000), params)
    rng = np.random.default_rng(0)
    side, pairs = 0.3**0.5, []
    for box, _ in product(boxes, range(20)):
        pair = []
        for _ in range(2):
            at = [box[x] + (box[2 + x] - box[x]) * rng.beta(alpha, alpha) for x in (0, 1)]
            low = [min(max(0, a - side / 2), 1 - side) for a in at]
            pair.append((*low, low[0] + side, low[1] + side))
        pairs.append((pair, box))
    shown = fmean(overlap(w, box) / area(box) for pair, box in pairs for w in pair)
    assert found.boxed.box == pytest.approx(shown, abs=0.01)
    expected = fmean(slow_iou(*pair) for pair, _ in pairs)
    assert found.boxed.pair_iou == pytest.approx(expected, abs=0.01)


def test_windows_that_show_less_than_plain_ones_are_said_to_cost(tmp_path):
    full = called(tmp_path / "full", np.tile([0.0, 0.0, 1.0, 1.0], (N, 1)))
    assert full.windows.boxed.middle < full.windows.plain.middle - 0.03
    assert f"({full.windows.boxed.middle:.2f}, not {full.windows.plain.middle:.2f})" in full.cost
    wide = audit(tmp_path / "full", crop=CropParams("overlap", 1.0))
    assert (wide.windows.boxed, wide.cost) == (wide.windows.plain, None)
    small = called(tmp_path / "small", jittered([0.4, 0.4, 0.6, 0.6], 0.09), chosen(0.9))
    assert (small.verdict, small.cost) == (WORTH, None)
    assert small.windows.boxed.box > small.windows.plain.box + 0.04


def test_where_a_row_has_choices_windows_mind_one_of_them(tmp_path):
    parts = [np.array([[0, 0, 0.2, 0.2], [0.8, 0.8, 1, 1]], np.float32)] * N
    rows = table([f"image{number}" for number in range(N)], np.tile([0.0, 0, 1, 1], (N, 1)))
    rows.choices = Choices.of(parts)
    one = audit(box_set(tmp_path, [rows])).windows
    assert one.boxed.box > 0.5  # of the union it would be as much as of the image
    assert one.boxed.pair_iou > one.plain.pair_iou + 0.1
