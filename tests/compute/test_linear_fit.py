"""What a linear head is fitted to: the share of each cell in boxes or masks."""

import numpy as np
import pytest
import torch

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.compute.linear_fit import _in_boxes, _in_heatmap, fit_linear
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.images import Scenes, open_source, pack
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer, build_backbone


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("fit")
    pack(Scenes(40, size=64), place / "scenes", max_images=16)
    return place


def small() -> Encoder:
    torch.manual_seed(0)
    return Encoder(build_backbone("small"), "layer4", 64)


def by_points(inside, grid, steps=40):
    """Share of each cell whose points are inside."""
    h, w = grid
    ys, xs = (np.arange(steps * n) / (steps * n) + 0.5 / (steps * n) for n in grid)
    points = np.array([[inside(x, y) for x in xs] for y in ys], float)
    return points.reshape(h, steps, w, steps).mean(axis=(1, 3))


def test_the_share_of_cells_in_boxes():
    boxes = np.float32([[0.1, 0.2, 0.55, 0.7], [0.6, 0.1, 0.9, 1.0]])
    found = _in_boxes(boxes, (4, 5))
    expected = by_points(
        lambda x, y: any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes), (4, 5)
    )
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_the_share_of_cells_in_a_heatmap_of_another_grid():
    heat = np.random.default_rng(0).random((1, 6, 4)).astype(np.float16)

    class Table:
        heatmaps = heat

    found = _in_heatmap(Table, 0, (4, 5), None)
    expected = by_points(lambda x, y: heat[0, int(y * 6), int(x * 4)] > 0.5, (4, 5))
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_a_head_learns_where_the_boxes_are_and_is_always_the_same(place):
    source = open_source(place / "scenes")
    boxes = fixed_boxes(source, place / "centre", "centre")
    found = fit_linear(boxes, source, small(), images=30)
    assert (found.images, found.cells) == (30, 30 * 64)
    assert found.objects == pytest.approx(0.25)
    assert found.agreement > 0.8
    assert found.base_rate == 0.75
    assert found.head.sha256 == fit_linear(boxes, source, small(), images=30).head.sha256
    made = compute_boxes(
        source, Localizer(small(), "linear", BoxRule(0.5), head=found.head), place / "linear"
    )
    maps = np.concatenate([table.heatmaps for _, table in made.tables()]).mean(axis=0)
    assert maps[2:6, 2:6].mean() > 2 * maps[[0, -1]].mean()


def test_a_head_learns_masks(place):
    source = open_source(place / "scenes")
    masks = compute_boxes(source, Localizer(small(), "lost", BoxRule(0.5)), place / "masks")
    found = fit_linear(masks, source, small(), target="heatmaps")
    share = np.mean([(table.heatmaps > 0.5).mean() for _, table in masks.tables()])
    assert found.objects == pytest.approx(share, abs=0.1)
    assert found.agreement > 0.8
    with pytest.raises(CcropError, match="without heatmaps"):
        fit_linear(BoxSet.open(place / "centre"), source, small(), target="heatmaps")


def test_images_of_others_are_refused(place):
    pack(Scenes(40, size=64, split="test"), place / "others", max_images=40)
    source = open_source(place / "scenes")
    fixed_boxes(source, place / "centre", "centre")
    with pytest.raises(CcropError, match="Give the images that the boxes were made for"):
        fit_linear(place / "centre", open_source(place / "others"), small())
    with pytest.raises(CcropError, match="images is 0"):
        fit_linear(place / "centre", source, small(), images=0)
