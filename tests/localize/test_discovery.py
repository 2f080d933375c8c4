"""LOST and TokenCut against their papers' formulas, cell by cell in NumPy."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.localize import (
    NATURAL_THRESHOLDS,
    BoxRule,
    Encoder,
    Localizer,
    boxes_from_heatmaps,
    build_backbone,
)
from ccrop_pipeline.localize.cells import object_level
from ccrop_pipeline.localize.discovery import (
    cells_of,
    compared_cells,
    lost,
    tokencut,
)
from ccrop_pipeline.localize.encoder import probe_images

Cell = tuple[int, int]


def component(content: set[Cell], start: Cell) -> set[Cell]:
    """The cells that are reached from one by steps to the four neighbours, of content alone."""
    reached, edge = {start}, [start]
    while edge:
        y, x = edge.pop()
        steps = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & content - reached
        reached |= steps
        edge += steps
    return reached


def dot(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return math.fsum(a * b for a, b in zip(one.tolist(), other.tolist(), strict=True))


def lost_by_hand(cells: NDArray[np.float64], grid: Cell, k: int = 100) -> list[set[Cell]]:
    """Objects of LOST, equations 1 to 4: the one of the seed, then the others by their sum."""
    n = len(cells)
    similar = np.array([[dot(p, q) for q in cells] for p in cells])
    degree = [sum(similar[p, q] >= 0 for q in range(n)) for p in range(n)]
    positive = [math.fsum(s for s in similar[p] if s > 0) for p in range(n)]
    by_degree = sorted(range(n), key=lambda p: (degree[p], positive[p], p))
    seed = by_degree[0]
    expanded = [q for q in by_degree[:k] if similar[q, seed] >= 0]
    scores = [math.fsum(similar[q, s] for s in expanded) for q in range(n)]
    where = [divmod(q, grid[1]) for q in range(n)]
    content = {where[q] for q in range(n) if scores[q] >= 0}
    found = [component(content, where[seed])]
    rest = content - found[0]
    others = []
    while rest:
        others.append(component(rest, min(rest)))
        rest -= others[-1]
    score_of = dict(zip(where, scores, strict=True))
    return found + sorted(others, key=lambda one: -math.fsum(score_of[c] for c in one))


def tokencut_by_hand(cells: NDArray[np.float64], grid: Cell, objects: int) -> list[set[Cell]]:
    """Objects of TokenCut, equations 3 to 6, by the eigenvectors of D^-1 (D - E)."""
    where = [divmod(q, grid[1]) for q in range(len(cells))]
    corners = {(y, x) for y in (0, grid[0] - 1) for x in (0, grid[1] - 1)}
    left, found = list(range(len(cells))), list[set[Cell]]()
    while len(found) < objects:
        lengths = [math.sqrt(dot(cells[p], cells[p])) for p in left]
        edges = np.empty((len(left), len(left)))
        for i, j in np.ndindex(*edges.shape):
            cosine = dot(cells[left[i]], cells[left[j]]) / (lengths[i] * lengths[j])
            edges[i, j] = 1 if cosine >= 0.2 else 1e-5
        degrees = np.diag(edges.sum(1))
        values, vectors = np.linalg.eig(np.linalg.inv(degrees) @ (degrees - edges))
        second = vectors[:, np.argsort(values.real)[1]].real
        extreme = int(np.argmax(np.abs(second)))
        high = second > second.mean()
        content = {
            where[p] for p, is_high in zip(left, high, strict=True) if is_high == high[extreme]
        }
        one = component(content, where[left[extreme]])
        if found and len(one & corners) > 1:
            break
        found.append(one)
        left = [p for p in left if where[p] not in one]
    return found


def drawn(objects: list[set[Cell]], grid: Cell) -> NDArray[np.float16]:
    heatmap = np.zeros(grid, np.float16)
    for number, cells in enumerate(objects):
        for cell in cells:
            heatmap[cell] = object_level(number)
    return heatmap


def random_cells(grid: Cell, images: int = 6, channels: int = 6) -> Tensor:
    """Noise on top of a few patches that have something in common."""
    generator = torch.Generator().manual_seed(grid[0])
    cells = torch.randn(images, *grid, channels, generator=generator)
    for image in range(images):
        way = 4 * torch.randn(channels, generator=generator)
        cells[image] -= way / 4
        cells[image, 1 : 3 + image % 3, 2:5] += way
        cells[image, -3:-1, : 2 + image % 2] += torch.randn(channels, generator=generator) * 4
    return cells.flatten(1, 2)


@pytest.mark.parametrize("grid", [(5, 7), (12, 11)])
@pytest.mark.parametrize("objects", [1, 3])
def test_lost_is_that_of_the_paper(grid: Cell, objects: int) -> None:
    cells = random_cells(grid)
    heatmaps = lost(cells, grid, objects)
    for one, heatmap in zip(cells.double().numpy(), heatmaps, strict=True):
        expected = drawn(lost_by_hand(one, grid)[:objects], grid)
        np.testing.assert_array_equal(heatmap, expected)


def test_the_seed_is_expanded_among_the_hundred_that_the_fewest_resemble() -> None:
    """In noise the other 32 of 132 cells matter."""
    grid = (12, 11)
    cells = torch.randn(2, 132, 6, generator=torch.Generator().manual_seed(0))
    limited, unlimited = (
        np.stack([drawn(lost_by_hand(one, grid, k)[:1], grid) for one in cells.double().numpy()])
        for k in (100, 132)
    )
    assert (limited != unlimited).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(lost(cells, grid), limited)


@pytest.mark.parametrize("grid", [(5, 7), (8, 6)])
@pytest.mark.parametrize("objects", [1, 3])
def test_tokencut_is_that_of_the_paper(grid: Cell, objects: int) -> None:
    cells = random_cells(grid)
    heatmaps = tokencut(cells, grid, objects)
    for one, heatmap in zip(cells.double().numpy(), heatmaps, strict=True):
        expected = drawn(tokencut_by_hand(one, grid, objects), grid)
        np.testing.assert_array_equal(heatmap, expected)


@pytest.mark.parametrize("find", [lost, tokencut])
def test_a_mask_does_not_depend_on_its_batch(find) -> None:
    cells, grid = random_cells((12, 11)), (12, 11)
    together = find(cells, grid, 2)
    alone = torch.cat([find(one[None], grid, 2) for one in cells])
    assert torch.equal(together, alone)
    assert torch.equal(find(cells * 1e-30, grid, 2), find(cells, grid, 2))


@pytest.mark.parametrize("find", [lost, tokencut])
def test_an_object_unlike_its_surroundings_is_found(find) -> None:
    cells = torch.randn(1, 8, 8, 16, generator=torch.Generator().manual_seed(0)) * 0.02
    cells[..., 0] += 1
    cells[:, 2:5, 3:7, 0] -= 1.2
    cells[:, 2:5, 3:7, 1] += 1
    expected = torch.zeros(1, 8, 8, dtype=torch.float16)
    expected[:, 2:5, 3:7] = 1
    assert torch.equal(find(cells.flatten(1, 2), (8, 8)), expected)


@pytest.mark.parametrize("find", [lost, tokencut])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_has_no_object(find, bad: float) -> None:
    cells, grid = random_cells((5, 7)), (5, 7)
    kept = find(cells, grid)
    cells[1, 8, 2] = bad
    found = find(cells, grid)
    assert found[1].eq(0).all()
    assert torch.equal(found[[0, 2, 3, 4, 5]], kept[[0, 2, 3, 4, 5]])


def test_patches_that_are_all_alike_have_no_best_cut() -> None:
    assert tokencut(torch.ones(1, 12, 4), (3, 4)).eq(0).all()
    assert tokencut(torch.ones(1, 2, 4), (1, 2)).eq(0).all()
    assert lost(torch.zeros(1, 12, 4), (3, 4)).eq(0).all()


def transformer() -> Encoder:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", img_size=96, depth=2, num_classes=0)
    return Encoder(module, "blocks.1", 96, layout="tokens", prefix_tokens=1)


def convolutional() -> Encoder:
    torch.manual_seed(0)
    return Encoder(build_backbone("small"), "layer4", 96)


def test_keys_have_the_heads_side_by_side_and_no_prefix() -> None:
    encoder, images = transformer(), probe_images(96)
    keys = encoder.attention(images).keys
    cells, grid = compared_cells(encoder, images)
    assert (grid, cells.shape) == ((6, 6), (8, 36, 192))
    for b, patch, head in np.ndindex(8, 36, 3):
        expected = keys[b, head, 1 + patch]
        assert torch.equal(cells[b, patch, 64 * head : 64 * head + 64], expected)


def test_features_are_centred_over_each_image() -> None:
    encoder, images = convolutional(), probe_images(96)
    features = encoder.features(images)
    cells, grid = compared_cells(encoder, images)
    h, w = grid
    assert features.shape[2:] == grid
    for b in range(len(images)):
        mean = math.fsum(features[b].flatten().tolist()) / features[b].numel()
        for y, x, c in np.ndindex(h, w, 3):
            expected = float(features[b, c, y, x]) - mean
            assert float(cells[b, w * y + x, c]) == pytest.approx(expected, rel=1e-9)
    same, _ = cells_of(encoder, images, "layer")
    assert torch.equal(same.transpose(1, 2).reshape(features.shape), features)


@pytest.mark.parametrize("name", ["lost", "tokencut"])
@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
def test_the_box_is_that_of_the_cells_of_the_mask(name: str, kind: str) -> None:
    encoder = convolutional() if kind == "convolutional" else transformer()
    localizer = Localizer(encoder, name, BoxRule(NATURAL_THRESHOLDS[name]))
    images = probe_images(96)
    heatmaps, boxes, found = localizer.locate(images)
    assert found.any()
    assert set(heatmaps.unique().tolist()) <= {0.0, 1.0}
    h, w = heatmaps.shape[1:]
    for heatmap, box, has_box in zip(heatmaps, boxes, found, strict=True):
        ys, xs = np.nonzero(heatmap.numpy())
        assert bool(has_box) == bool(len(ys))
        expected = (
            [xs.min() / w, ys.min() / h, (xs.max() + 1) / w, (ys.max() + 1) / h]
            if len(ys)
            else [0, 0, 1, 1]
        )
        np.testing.assert_allclose(box, np.float32(expected), rtol=1e-6)
    assert torch.equal(boxes, boxes_from_heatmaps(heatmaps, BoxRule(0.5), 96)[0])
