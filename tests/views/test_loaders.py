import numpy as np
import pytest
import torch
from made_views import COUNT, by_key, make_boxes, make_source

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.crops import (
    UNIFORMS_PER_WINDOW,
    WINDOW,
    CropParams,
    crop_and_resize,
    decode,
    key_hash,
    sample_windows,
    uniforms,
)
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.sources import Sample, open_source, pack
from ccrop_pipeline.views import MapLoader, MapViews, StreamViews, ViewCutter, stream_loader

PARAMS = CropParams(rule="overlap", alpha=0.3)
CUTTER = ViewCutter(16, views=2, seed=7)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("data") / "tars")


@pytest.fixture(scope="module")
def boxes(source, tmp_path_factory):
    return [make_boxes(source, tmp_path_factory.mktemp("boxes") / str(i), i) for i in range(2)]


def map_loader(source, workers=0, batch_size=4, missing="error"):
    return MapLoader(MapViews(source.index(), CUTTER, PARAMS), batch_size, workers, missing=missing)


def expected_views(source, folder, epoch):
    """One image at a time, straight from the parts."""
    views = {}
    for shard in source.shards:
        for sample in source.read(shard):
            image = decode(sample.image)
            box, found = BoxSet.open(folder).lookup().find([sample.key])
            assert found.all()
            crops = []
            for view in range(2):
                randoms = uniforms(
                    7,
                    epoch,
                    np.array([key_hash(sample.key)], np.uint64),
                    view,
                    WINDOW,
                    UNIFORMS_PER_WINDOW,
                )
                window = sample_windows(box, np.array([image.size]), randoms, PARAMS)[0]
                crops.append(crop_and_resize(image, window, 16))
            views[sample.key] = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    return views


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 4), (1, 3), (3, 8)])
def test_map_views_are_the_same_for_any_workers_and_batch_size(source, boxes, workers, batch_size):
    loader = map_loader(source, workers, batch_size)
    loader.use_boxes(boxes[0])
    views = by_key(loader.epoch(2), source)
    assert same(views, expected_views(source, boxes[0], epoch=2))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_streamed_views_are_those_of_the_map_and_come_once_each(source, boxes, workers):
    views = StreamViews(source, CUTTER, PARAMS, batch_size=5, buffer=4)
    loader = stream_loader(views, workers)
    views.current.epoch, views.current.folder = 2, boxes[0]
    assert same(by_key(loader, source), expected_views(source, boxes[0], epoch=2))


def test_batches_of_a_map_come_in_the_same_order_for_any_workers(source):
    orders = [
        [batch.key_hashes.tolist() for batch in map_loader(source, workers).epoch(4)]
        for workers in (0, 2)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != [batch.key_hashes.tolist() for batch in map_loader(source).epoch(5)]


def test_persistent_map_workers_see_a_refreshed_box_set(source, boxes):
    loader = map_loader(source, workers=2)
    random = by_key(loader.epoch(0), source)
    for folder in boxes:
        loader.use_boxes(folder)
        assert same(by_key(loader.epoch(0), source), expected_views(source, folder, 0))
    loader.use_boxes(None)
    assert same(by_key(loader.epoch(0), source), random)


def test_persistent_streaming_workers_see_a_refreshed_box_set(source, boxes):
    views = StreamViews(source, CUTTER, PARAMS, batch_size=5)
    loader = stream_loader(views, workers=2)
    for folder in boxes:
        views.current.folder = folder
        assert same(by_key(loader, source), expected_views(source, folder, 0))


def test_without_boxes_windows_are_those_of_the_full_box_with_alpha_one(source):
    views = by_key(map_loader(source).epoch(1), source)
    sample = next(source.read(source.shards[0]))
    randoms = uniforms(
        7, 1, np.array([key_hash(sample.key)], np.uint64), 0, WINDOW, UNIFORMS_PER_WINDOW
    )
    plain = CropParams(rule="overlap", alpha=1.0)
    window = sample_windows(np.array([[0.0, 0, 1, 1]]), np.array([[32, 32]]), randoms, plain)[0]
    crop = torch.from_numpy(crop_and_resize(decode(sample.image), window, 16)).permute(2, 0, 1)
    assert torch.equal(views[sample.key][0], crop)


def test_an_epoch_takes_whole_batches_only(source):
    loader = map_loader(source, batch_size=5)
    batches = list(loader.epoch(0))
    assert [len(batch.labels) for batch in batches] == [5] * (COUNT // 5) == [5] * len(loader)


def test_labels_and_memory_layout(source):
    batch = next(map_loader(source).epoch(0))
    keys, labels = list(source.index().keys), source.index().labels
    assert batch.views.shape == (2, 4, 3, 16, 16)
    assert batch.views[0].is_contiguous(memory_format=torch.channels_last)
    by_hash = {key_hash(key): label for key, label in zip(keys, labels, strict=True)}
    assert [by_hash[hashed] for hashed in batch.hashes.tolist()] == batch.labels.tolist()


@pytest.mark.parametrize("kind", ["map", "stream"])
def test_an_image_without_a_box_is_an_error_or_keeps_the_full_box(source, tmp_path, kind):
    absent = list(source.index().keys)[3]
    folder = make_boxes(source, tmp_path / "boxes", 0, leave_out=absent)

    def views_of(missing):
        if kind == "map":
            loader = map_loader(source, missing=missing)
            loader.use_boxes(folder)
            return by_key(loader.epoch(0), source)
        stream = StreamViews(source, CUTTER, PARAMS, batch_size=5, missing=missing)
        stream.current.folder = folder
        return by_key(stream_loader(stream), source)

    with pytest.raises(CcropError, match=absent):
        views_of("error")
    assert set(views_of("full")) == set(source.index().keys)


def test_an_unreadable_image_is_grey_counted_and_named(tmp_path):
    good = next(make_source(tmp_path / "good").read("data-000000"))
    pack([Sample("good", good.image, 0), Sample("bad", b"no image", 1)], tmp_path / "bad")
    loader = map_loader(open_source(tmp_path / "bad"), batch_size=2)
    with pytest.warns(RuntimeWarning, match="'bad'"):
        (batch,) = loader.epoch(0)
    assert batch.unreadable == 1
    bad = batch.labels.tolist().index(1)
    assert (batch.views[:, bad] == 128).all()
    assert not (batch.views[:, 1 - bad] == 128).all()
