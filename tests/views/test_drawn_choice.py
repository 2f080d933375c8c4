"""Images with several boxes: one is drawn for each epoch, for all views of the image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from given_rows import box_set_of, rows_of
from made_views import COUNT, by_key, make_source

from ccrop_pipeline.boxset import BoxSet, Choices, Provenance, SourceInfo
from ccrop_pipeline.crops import CHOICE, PHOTOMETRIC, WINDOW, key_hash, uniforms
from ccrop_pipeline.images import image_hash
from ccrop_pipeline.views import ViewCutter, ViewGroup
from ccrop_pipeline.views.by_position import MapLoader, ResidentLoader, canvas_within, load_images
from ccrop_pipeline.views.current_boxes import ImageBoxes
from ccrop_pipeline.views.streaming import StreamLoader

SEED = 7
PARAMS = {"rule": "overlap", "alpha": 0.3, "scale": (0.1, 0.3)}
CUTTER = ViewCutter((ViewGroup(3, 16, **PARAMS), ViewGroup(1, 8, **PARAMS)), seed=SEED)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("data") / "tars")


@pytest.fixture(scope="module")
def several(source, tmp_path_factory):
    """A box set with one to four boxes an image."""
    return write(source, tmp_path_factory.mktemp("boxes") / "several", None)


def write(source, folder: Path, epoch: int | None) -> Path:
    """The box set, or one with the box alone that each image has in an epoch."""
    random = np.random.default_rng(3)
    info = SourceInfo(source.kind, source.fingerprint())
    provenance = Provenance(None, None, info, rule=f"made for epoch {epoch}")
    tables = []
    for shard in source.shards:
        samples = list(source.read(shard))
        rows = []
        for sample in samples:
            low = random.uniform(0, 0.8, (random.integers(1, 5), 2))
            row = np.concatenate([low, low + 0.2], 1).astype(np.float32)
            rows.append(row if epoch is None else drawn(row, sample.key, epoch))
        choices = Choices.of(rows)
        tables.append(
            rows_of(
                [sample.key for sample in samples],
                choices if epoch is None else choices.union(),
                sizes=(32, 32),
                hashes=[image_hash(sample.image) for sample in samples],
            )
        )
    box_set_of(folder, *tables, names=source.shards, made_by=provenance)
    return folder


def drawn(row: np.ndarray, key: str, epoch: int) -> np.ndarray:
    numbers = uniforms(SEED, epoch, np.array([key_hash(key)], np.uint64), 0, CHOICE, 1)
    return row[int(numbers.item() * len(row))][None]


def map_loader(source, workers=0):
    return MapLoader(source.index(), CUTTER, batch_size=4, workers=workers)


def resident_loader(source, workers=0):
    index = source.index()
    images = load_images(index, canvas_within(index, 1_000_000, CPU), CPU, threads=2)
    return ResidentLoader(images, CUTTER, batch_size=4)


def stream_loader(source, workers=0):
    return StreamLoader(source, CUTTER, batch_size=4, images=COUNT, workers=workers, buffer=5)


LOADERS = [
    (map_loader, 0),
    (map_loader, 1),
    (map_loader, 3),
    (resident_loader, 0),
    (stream_loader, 0),
    (stream_loader, 1),
    (stream_loader, 3),
]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "workers"), LOADERS)
def test_views_are_those_of_the_one_box_that_the_epoch_draws(
    make, workers, source, several, tmp_path
):
    loader = make(source, workers)
    loader.use_boxes(several)
    # The same workers, one epoch after the other.
    found = {epoch: by_key(loader.epoch(epoch), source) for epoch in (5, 6)}
    plain = make(source)
    for epoch, views in found.items():
        plain.use_boxes(write(source, tmp_path / str(epoch), epoch))
        expected = by_key(plain.epoch(epoch), source)
        assert views.keys() == expected.keys()
        assert len(views) == COUNT
        assert all(torch.equal(views[key], expected[key]) for key in views)


def test_epochs_draw_different_boxes(source, several):
    boxes = ImageBoxes.find(several, list(source.index().keys), "error")
    hashes = np.array([key_hash(key) for key in source.index().keys], np.uint64)
    first, second = (boxes.of_epoch(SEED, epoch, hashes) for epoch in (0, 1))
    alone = boxes.choices.counts == 1
    assert (first[alone] == second[alone]).all()
    assert (first[~alone] != second[~alone]).any(axis=1).sum() >= 5


def test_draws_are_uniform_and_independent_of_epoch_and_seed():
    n, k = 9000, 3
    rows = np.array([[i / 4, 0, 1, 1] for i in range(k)], np.float32)
    boxes = ImageBoxes(np.empty((n, 4), np.float32), Choices.of([rows] * n))
    hashes = np.random.default_rng(0).integers(0, 2**64, n, np.uint64)
    draws = [
        (4 * boxes.of_epoch(seed, epoch, hashes)[:, 0]).astype(int)
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    for other in draws[1:]:
        counts = np.bincount(k * draws[0] + other, minlength=k * k)
        # Chi-square with 8 degrees of freedom: above 26.1 once in a thousand.
        assert ((counts - n / 9) ** 2 / (n / 9)).sum() < 26.1


def test_a_batch_has_no_part_in_the_draw(source, several):
    keys = list(source.index().keys)
    hashes = np.array([key_hash(key) for key in keys], np.uint64)
    whole = ImageBoxes.find(several, keys, "error").of_epoch(SEED, 2, hashes)
    for i in (0, 7, 23):
        alone = ImageBoxes.find(several, [keys[i]], "error").of_epoch(SEED, 2, hashes[i : i + 1])
        assert (alone[0] == whole[i]).all()


def test_box_sets_with_one_box_an_image_draw_nothing(source, tmp_path):
    folder = write(source, tmp_path / "one", 0)
    boxes = ImageBoxes.find(folder, list(source.index().keys), "error")
    assert boxes.choices is None
    assert boxes.of_epoch(0, 0, np.empty(0, np.uint64)) is boxes.boxes
    assert BoxSet.open(folder).lookup().choices(["x"]) is None


def test_streams_of_numbers_are_not_shared():
    assert len({CHOICE, WINDOW, PHOTOMETRIC}) == 3
