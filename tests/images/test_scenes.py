import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from ccrop_pipeline.images import Scenes, image_hash, true_boxes
from ccrop_pipeline.images.scenes import (
    OUTER,
    OUTLINES,
    SIDE,
    TEXTURES,
    background,
    coverage,
)

TURN = np.array([[np.cos(0.25), np.sin(0.25)], [-np.sin(0.25), np.cos(0.25)]])


@pytest.fixture(scope="module")
def samples():
    return list(Scenes(500).read("train-000000"))


@pytest.fixture(scope="module")
def boxes(samples):
    return np.concatenate([true_boxes(s.annotation) for s in samples])


def coverage_by_points(outline, box, size, steps=8):
    """Share of a pixel's points within the polygon, by crossing parity, edge by edge."""
    low, high = outline.min(0), outline.max(0)
    corners = box[:2] + (outline - low) / (high - low) * (np.array(box[2:]) - box[:2])
    grid = (np.arange(size * steps) + 0.5) / steps
    x, y = np.meshgrid(grid, grid)
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
        if y0 != y1:
            inside ^= ((y < y0) != (y < y1)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside.reshape(size, steps, size, steps).mean((1, 3))


@pytest.mark.parametrize("shape", OUTLINES)
def test_coverage_matches_counting_points(shape):
    outline = OUTLINES[shape] @ TURN
    ours, slow = (f(outline, (7, 20, 26, 41), 48) for f in (coverage, coverage_by_points))
    assert ours.shape == (48, 48)
    # Four scan lines a row: at most an eighth of a row lies on the wrong side of a flat edge.
    assert np.abs(ours - slow).max() < 0.15
    assert abs(ours.sum() - slow.sum()) < 1.0


def test_an_upright_panel_covers_exactly_its_box():
    expected = np.zeros((40, 40))
    expected[5:30, 3:20] = 1
    assert (coverage(OUTLINES["panel"], (3, 5, 20, 30), 40) == expected).all()


def test_the_disc_has_the_area_of_a_polygon_of_48_corners():
    radius = 20
    area = 48 / 2 * radius**2 * np.sin(2 * np.pi / 48)
    total = coverage(OUTLINES["disc"], (4, 4, 4 + 2 * radius, 4 + 2 * radius), 48).sum()
    assert total == pytest.approx(area, rel=2e-3)


REACH = 4  # pixels on either side of an edge that are looked at


def steps_at_edges(pixels, box):
    """Pixels from each edge of a box inwards to the first large step between two lines of pixels.

    Lines are those along the edge, within `REACH` of it. Blurred surroundings have no such step;
    an object begins with one. NaN where there is none, or the edge is that of the image.
    """
    found = []
    for image, (low, high), (left, right) in [
        (pixels, box[1::2], box[::2]),
        (pixels.transpose(1, 0, 2), box[::2], box[1::2]),
    ]:
        step = np.abs(np.diff(image, axis=0)).mean(2)[:, max(0, left - REACH) : right + REACH]
        large = step.max(1) > 28  # of 255
        for line, first in [(large, low), (large[::-1], len(image) - high)]:
            near = [
                off
                for off in range(-REACH, REACH + 1)
                if 0 <= first - 1 + off < len(line) and line[first - 1 + off]
            ]
            found.append(near[0] if near and first else np.nan)
    return found


@pytest.mark.slow
def test_boxes_end_where_the_pixels_of_the_object_do():
    scenes = Scenes(400, seed=3)
    steps = []
    for i in range(scenes.count):
        sample = scenes.sample(i)
        box = true_boxes(sample.annotation)[0] * scenes.size
        assert box == pytest.approx(np.round(box), abs=1e-9), "edges lie between pixels"
        pixels = np.asarray(Image.open(io.BytesIO(sample.image)), dtype=float)
        steps.append(steps_at_edges(pixels, np.round(box).astype(int)))
    steps = np.array(steps)
    for side in steps.T:
        seen = side[~np.isnan(side)]
        assert len(seen) > 0.85 * scenes.count
        # The tips of some objects contrast so little that the step comes later.
        assert (seen == 0).mean() > 0.65
        assert (np.abs(seen) <= 1).mean() > 0.85
    # Lines of which the object covers less than half of each pixel are outside, and may be seen:
    # one edge in thirty, twice as many at three quarters, half as many without this rule.
    before = (steps < 0).sum() / (~np.isnan(steps)).sum()
    assert 0.022 < before < 0.042


def test_the_object_is_seen_where_its_box_is(samples, boxes):
    """Pixels within the boxes are far from the blurred surroundings, those outside are not."""
    inside, outside = [], []
    for sample, box in zip(samples[:200], boxes, strict=False):
        pixels = np.asarray(Image.open(io.BytesIO(sample.image)), dtype=float)
        x0, y0, x1, y1 = np.round(box * 64).astype(int)
        step = np.abs(np.diff(pixels, axis=0)).mean(2)[:, :-1]
        within = np.zeros(step.shape, bool)
        within[y0 : y1 - 1, x0 : x1 - 1] = True
        inside.append(step[within].mean())
        outside.append(step[~within].mean())
    assert np.mean(inside) > 1.1 * np.mean(outside)


def test_sides_and_places(boxes):
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert sides.max() <= SIDE[1] + 0.5 / 64
    # A star's points are narrower than a pixel: its box may end up to two pixels early.
    assert sides.min() >= SIDE[0] - 4.5 / 64


def test_objects_are_off_centre_on_one_axis_at_least(boxes):
    # A box may end up to two pixels before the place that its object was to fill.
    free = 1 - (boxes[:, 2:] - boxes[:, :2])
    from_border = np.minimum(boxes[:, :2], 1 - boxes[:, 2:])
    assert (from_border <= OUTER * free + 2.5 / 64).any(1).all()


def test_the_centre_box_misses_the_objects(boxes):
    low, high = np.maximum(boxes[:, :2], 0.25), np.minimum(boxes[:, 2:], 0.75)
    shared = np.clip(high - low, 0, None).prod(1)
    iou = shared / (0.25 + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared)
    assert 0.19 < iou.mean() < 0.26
    assert (iou >= 0.5).mean() < 0.03
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert np.abs(centres - 0.5).max(1).mean() > 0.2
    assert centres.mean(0) == pytest.approx([0.5, 0.5], abs=0.04), "to no side in particular"


def test_every_image_depends_on_its_own_numbers_only(samples):
    scenes = Scenes(10_000)
    for i in (0, 7, 499):
        assert scenes.sample(i) == samples[i]
    others = [Scenes(500, seed=1), Scenes(500, split="test"), Scenes(500, size=32)]
    images = [samples[3].image, *(other.sample(3).image for other in others)]
    assert len({image_hash(image) for image in images}) == 4
    assert len({image_hash(s.image) for s in samples}) == 500


def test_images_labels_and_annotations(samples):
    scenes = Scenes(500)
    for i, sample in enumerate(samples[:30]):
        image = Image.open(io.BytesIO(sample.image))
        assert (image.size, image.mode, image.format) == ((64, 64), "RGB", "JPEG")
        note = json.loads(sample.annotation)
        assert sample.key == f"train-{i:06d}"
        assert note["labels"] == [scenes.classes[sample.label]]
        assert (note["height"], note["width"], note["source"]) == (64, 64, "scenes")
    assert np.bincount([s.label for s in samples]).tolist() == [50] * 10
    assert len(set(scenes.classes)) == 10


def test_colour_does_not_tell_the_class(samples, boxes):
    """Mean colours of the object's box: classes differ by less than images of one class do."""
    means = []
    for sample, box in zip(samples, boxes, strict=True):
        x0, y0, x1, y1 = np.round(box * 64).astype(int)
        pixels = np.asarray(Image.open(io.BytesIO(sample.image)), dtype=float)
        means.append(pixels[y0:y1, x0:x1].mean((0, 1)))
    grouped = np.reshape(means, (50, 10, 3))
    assert (grouped.mean(0).std(0) < 0.35 * grouped.std(0).mean(0)).all()


@pytest.mark.parametrize("name", TEXTURES)
def test_textures_show_both_colours(name):
    u, v = np.meshgrid(np.linspace(-12, 12, 200), np.linspace(-12, 12, 200))
    share = TEXTURES[name](u, v)
    assert share.shape == (200, 200)
    assert share.min() >= 0
    assert share.max() <= 1
    assert 0.2 < share.mean() < 0.8
    assert np.ptp(share) > 0.9


def test_backgrounds_have_the_spectrum_they_claim():
    """Slope of log amplitude over log frequency, rows, averaged over images: mean exponent."""
    size, rng = 128, np.random.default_rng(5)
    power = np.zeros((size, size))
    for _ in range(200):
        grey = background(size, rng).mean(2)
        power += np.abs(np.fft.fft2(grey - grey.mean(1, keepdims=True))) ** 2 / grey.var()
    frequency = np.arange(4, 40)
    slope = np.polyfit(np.log(frequency), np.log(np.sqrt(power[5, 4:40])), 1)[0]
    assert -1.6 < slope < -0.9


def test_index_equals_read(samples):
    index = pickle.loads(pickle.dumps(Scenes(500).index()))
    assert list(index.keys) == [s.key for s in samples]
    assert index.labels.tolist() == [s.label for s in samples]
    assert [index.read(i) for i in range(40)] == [s.image for s in samples[:40]]


def test_fingerprints_tell_parameters_apart():
    made = [Scenes(5), Scenes(6), Scenes(5, size=32), Scenes(5, seed=1), Scenes(5, split="test")]
    assert len({source.fingerprint() for source in made}) == 5
    assert Scenes(5).fingerprint() == Scenes(5).fingerprint()


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 1, "size": 8}, {"count": 1, "seed": -1}])
def test_wrong_parameters_are_the_programmers_error(wrong):
    with pytest.raises(ValueError, match="needs a count of 1 or more"):
        Scenes(**wrong)
