import io
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from made_views import COUNT, by_key, make_boxes, make_source
from PIL import Image

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.crops import (
    UNIFORMS_PER_WINDOW,
    WINDOW,
    CropParams,
    crop_and_resize,
    key_hash,
    sample_windows,
    uniforms,
)
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Sample, Scenes, decode_reduced, open_source, pack
from ccrop_pipeline.views import ViewCutter, ViewGroup
from ccrop_pipeline.views.batch import Batch
from ccrop_pipeline.views.by_position import MapLoader, ResidentLoader, canvas_within, load_images

PARAMS = CropParams(rule="overlap", alpha=0.3)
CUTTER = ViewCutter((ViewGroup(2, 16, **vars(PARAMS)),), seed=7)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("data") / "tars")


@pytest.fixture(scope="module")
def boxes(source, tmp_path_factory):
    return [make_boxes(source, tmp_path_factory.mktemp("boxes") / str(i), i) for i in range(2)]


def map_loader(source, workers=0, batch_size=4, missing="error"):
    return MapLoader(
        source.index(), CUTTER, batch_size=batch_size, workers=workers, missing=missing
    )


def resident_loader(source, batch_size=4, missing="error", cutter=CUTTER):
    index = source.index()
    images = load_images(index, canvas_within(index, 1_000_000, CPU), CPU, threads=2)
    return ResidentLoader(images, cutter, batch_size=batch_size, missing=missing)


def expected_views(source, folder, epoch, group=CUTTER.groups[0], first=0):
    """One image and one view at a time, straight from the parts."""
    views = {}
    for shard in source.shards:
        for sample in source.read(shard):
            pixels, _ = decode_reduced(sample.image, 1)
            box, found = BoxSet.open(folder).lookup().find([sample.key])
            assert found.all()
            hashed = np.array([key_hash(sample.key)], np.uint64)
            crops = []
            for view in range(first, first + group.count):
                randoms = uniforms(7, epoch, hashed, view, WINDOW, UNIFORMS_PER_WINDOW)
                size = np.array([pixels.shape[1::-1]])
                window = sample_windows(box, size, randoms, group.crop)[0]
                crops.append(crop_and_resize(pixels, 1, window, group.size))
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


def test_batches_of_a_map_come_in_the_same_order_for_any_workers(source):
    orders = [
        [batch.key_hashes.tolist() for batch in map_loader(source, workers).epoch(4)]
        for workers in (0, 2)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != [batch.key_hashes.tolist() for batch in map_loader(source).epoch(5)]


@pytest.mark.slow
def test_persistent_map_workers_see_a_refreshed_box_set(source, boxes):
    loader = map_loader(source, workers=2)
    random = by_key(loader.epoch(0), source)
    for folder in boxes:
        loader.use_boxes(folder)
        assert same(by_key(loader.epoch(0), source), expected_views(source, folder, 0))
    loader.use_boxes(None)
    assert same(by_key(loader.epoch(0), source), random)


# In a process of its own, since torch raises what it hears of dead workers wherever it is by then.
WHOSE_WORKER_DIES = """
import contextlib, multiprocessing, sys, time
import ccrop_pipeline as ccrop
source, group = ccrop.open_source(sys.argv[1]), ccrop.ViewGroup(1, 16)
loader = ccrop.ViewLoader(source, group, batch_size=1, workers=1, resident_gb=0, buffer=1)
batches = iter(loader)
next(batches)
with contextlib.suppress(RuntimeError):  # what torch's handler of the signal raises
    for process in multiprocessing.active_children():
        process.kill()
    time.sleep(1)
try:
    list(batches)
except ccrop.CcropError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["", "file://"])
def test_a_loader_process_that_dies_is_said_to_have_died(source, way):
    """As when the kernel runs out of memory."""
    spec = f"{way}{source.paths[0].parent}/*.tar"
    program = [sys.executable, "-c", WHOSE_WORKER_DIES, spec]
    told = subprocess.run(program, capture_output=True, text=True, timeout=120, check=True).stdout
    assert re.search(r"a loader process died: DataLoader worker.*`workers`", told)


def test_without_boxes_windows_are_those_of_the_full_box_with_alpha_one(source):
    views = by_key(map_loader(source).epoch(1), source)
    sample = next(source.read(source.shards[0]))
    randoms = uniforms(
        7, 1, np.array([key_hash(sample.key)], np.uint64), 0, WINDOW, UNIFORMS_PER_WINDOW
    )
    plain = CropParams(rule="overlap", alpha=1.0)
    window = sample_windows(np.array([[0.0, 0, 1, 1]]), np.array([[32, 32]]), randoms, plain)[0]
    crop = crop_and_resize(decode_reduced(sample.image, 1)[0], 1, window, 16)
    assert torch.equal(views[sample.key][0], torch.tensor(crop).permute(2, 0, 1))


def test_an_epoch_takes_whole_batches_only(source):
    loader = map_loader(source, batch_size=5)
    batches = list(loader.epoch(0))
    assert [len(batch.labels) for batch in batches] == [5] * (COUNT // 5) == [5] * loader.batches


def test_labels_and_memory_layout(source):
    batch = next(map_loader(source).epoch(0))
    keys, labels = list(source.index().keys), source.index().labels
    (views,) = batch.views
    assert views.shape == (2, 4, 3, 16, 16)
    assert views[0].is_contiguous(memory_format=torch.channels_last)
    by_hash = {key_hash(key): label for key, label in zip(keys, labels, strict=True)}
    assert [by_hash[hashed] for hashed in batch.hashes.tolist()] == batch.labels.tolist()


@pytest.mark.parametrize("build", [map_loader, resident_loader])
def test_an_image_without_a_box_is_an_error_or_keeps_the_full_box(source, tmp_path, build):
    absent = list(source.index().keys)[3]
    folder = make_boxes(source, tmp_path / "boxes", 0, leave_out=absent)
    with pytest.raises(CcropError, match=absent):
        build(source).use_boxes(folder)
    loader = build(source, missing="full")
    loader.use_boxes(folder)
    assert set(by_key(loader.epoch(0), source)) == set(source.index().keys)


@pytest.mark.parametrize("build", [map_loader, resident_loader])
def test_an_unreadable_image_is_grey_marked_and_named(tmp_path, build):
    good = next(make_source(tmp_path / "good").read("data-000000"))
    pack([Sample("good", good.image, 0), Sample("bad", b"no image", 1)], tmp_path / "bad")
    (batch,) = build(open_source(tmp_path / "bad"), batch_size=2).epoch(0)
    bad = batch.labels.tolist().index(1)
    ((own, problem),) = batch.problems.items()
    assert own == int(batch.key_hashes[bad])
    assert re.fullmatch(r"bad \(cannot decode 8 bytes as an image: [^<>]*\)", problem)
    assert batch.rows(slice(1 - bad, 2 - bad)).problems == {}
    assert Batch.join([batch.rows(slice(i, i + 1)) for i in range(2)]).problems == batch.problems
    assert batch.readable.tolist() == [label == 0 for label in batch.labels.tolist()]
    (views,) = batch.views
    assert (views[:, bad] == 128).all()
    assert not (views[:, 1 - bad] == 128).all()


@pytest.mark.parametrize("batch_size", [4, 8, 24])
def test_resident_views_are_those_of_the_map_but_for_rounding(source, boxes, batch_size):
    resident, mapped = resident_loader(source, batch_size), map_loader(source, 0, batch_size)
    for loader in (resident, mapped):
        loader.use_boxes(boxes[0])
    for ours, theirs in zip(resident.epoch(2), mapped.epoch(2), strict=True):
        assert torch.equal(ours.key_hashes, theirs.key_hashes)
        assert torch.equal(ours.labels, theirs.labels)
        assert (ours.views[0].int() - theirs.views[0].int()).abs().max() <= 2


def test_resident_views_are_the_same_bits_for_any_batch_size(source, boxes):
    views = []
    for batch_size in (4, 6, 24):
        loader = resident_loader(source, batch_size)
        loader.use_boxes(boxes[1])
        views.append(by_key(loader.epoch(1), source))
    assert same(views[0], views[1])
    assert same(views[0], views[2])


@pytest.mark.parametrize("build", [map_loader, resident_loader])
def test_an_epoch_is_taken_up_in_its_middle(source, boxes, build):
    loader = build(source)
    loader.use_boxes(boxes[0])
    whole = list(loader.epoch(3))
    for start in range(len(whole) + 1):
        rest = list(loader.epoch(3, start))
        assert len(rest) == len(whole) - start
        for ours, theirs in zip(rest, whole[start:], strict=True):
            assert torch.equal(ours.key_hashes, theirs.key_hashes)
            assert torch.equal(ours.views[0], theirs.views[0])


def test_images_of_several_sizes_lie_in_one_canvas(tmp_path):
    pack(Scenes(6, size=32), tmp_path / "small")
    samples = []
    for i, sample in enumerate(open_source(tmp_path / "small").read("data-000000")):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(sample.image)).resize((20 + 3 * i, 40 - 4 * i)).save(buffer, "PNG")
        samples.append(sample._replace(image=buffer.getvalue()))
    pack(samples, tmp_path / "mixed")
    source = open_source(tmp_path / "mixed")
    assert canvas_within(source.index(), 6 * 3 * 35 * 40, CPU) == (35, 40)
    assert canvas_within(source.index(), 6 * 3 * 35 * 40 - 1, CPU) is None
    folder = make_boxes(source, tmp_path / "boxes", 5)
    loader = resident_loader(source, batch_size=6)
    loader.use_boxes(folder)
    views, expected = by_key(loader.epoch(0), source), expected_views(source, folder, 0)
    for key in expected:
        assert (views[key].int() - expected[key].int()).abs().max() <= 2


@pytest.mark.parametrize("build", [map_loader, resident_loader])
def test_groups_of_views_have_their_own_number_size_scale_rule_and_alpha(source, boxes, build):
    large = ViewGroup(2, 24, rule="official", alpha=0.6, scale=(0.4, 1.0))
    small = ViewGroup(4, 8, rule="paper", alpha=0.1, scale=(0.05, 0.4))
    cutter = ViewCutter((large, small), seed=7)
    if build is map_loader:
        loader = MapLoader(source.index(), cutter, batch_size=6)
    else:
        loader = resident_loader(source, 6, cutter=cutter)
    loader.use_boxes(boxes[0])
    batches = list(loader.epoch(1))
    shapes = [tuple(group.shape) for group in batches[0].views]
    assert shapes == [(2, 6, 3, 24, 24), (4, 6, 3, 8, 8)]
    for number, (group, first) in enumerate(((large, 0), (small, 2))):
        views = by_key(batches, source, number)
        expected = expected_views(source, boxes[0], 1, group, first)
        assert views.keys() == expected.keys()
        for key in expected:
            assert (views[key].int() - expected[key].int()).abs().max() <= 2
