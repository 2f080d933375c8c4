"""The one loader that people see, in the three ways in which it loads."""

import os
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from made_views import COUNT, make_boxes, make_source

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.crops import key_hash
from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.images import Sample, open_source, pack
from ccrop_pipeline.views import AugmentSettings, ViewCutter, ViewGroup, ViewLoader
from ccrop_pipeline.views.augment import Augment
from ccrop_pipeline.views.batch import make_batch

GROUPS = (
    ViewGroup(2, 16, rule="overlap", alpha=0.3, augment=AugmentSettings(blur_p=0.5)),
    ViewGroup(1, 8, scale=(0.05, 0.3)),
)
WAYS = ["resident", "by position", "streamed"]
WITH_WORKERS = [*((way, 0) for way in WAYS), ("by position", 2), ("streamed", 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tars"
    make_source(folder)
    return folder


@pytest.fixture(scope="module")
def boxes(folder, tmp_path_factory):
    source = open_source(folder)
    return [make_boxes(source, tmp_path_factory.mktemp("boxes") / str(i), i) for i in range(2)]


def opened(folder, way, groups=GROUPS, **options):
    """A loader of that way, unless the options say otherwise."""
    options = {"batch_size": 4, "seed": 7, **options}
    if way == "streamed":
        source = open_source(f"file://{folder}/*.tar")
        sizes = [len(list(source.read(shard))) for shard in source.shards]
        return ViewLoader(source, groups, **{"shard_sizes": sizes, "buffer": 5, **options})
    gigabytes = 4.0 if way == "resident" else 0
    return ViewLoader(open_source(folder), groups, **{"resident_gb": gigabytes, **options})


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.key_hashes, b.key_hashes)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.readable, b.readable)
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))


def by_hash(batches):
    return {
        hashed: [group[:, row] for group in batch.views]
        for batch in batches
        for row, hashed in enumerate(batch.hashes.tolist())
    }


def expected(folder, box_set, epoch):
    """Labels and views by hash of the key, one image at a time from cutter and augmentation."""
    lookup, source = BoxSet.open(box_set).lookup(), open_source(folder)
    cutter, augment = ViewCutter(GROUPS, seed=7), Augment(GROUPS, 7, torch.device("cpu"))
    found = {}
    for shard in source.shards:
        for sample in source.read(shard):
            hashes = np.array([key_hash(sample.key)], np.uint64)
            box, _ = lookup.find([sample.key])
            crops, readable = cutter.cut([sample.image], [sample.key], hashes, box, epoch)
            views = augment(make_batch(crops, hashes, np.zeros(1, np.int64), readable), epoch)
            found[int(hashes[0])] = sample.label, [group[:, 0] for group in views]
    return found


@pytest.mark.parametrize(("way", "workers"), WITH_WORKERS)
def test_batches_are_augmented_views_of_their_boxes(folder, boxes, way, workers):
    loader = opened(folder, way, boxes=boxes[0], workers=workers)
    loader.set_epoch(3)
    batches, right = list(loader), expected(folder, boxes[0], 3)
    assert len(batches) == len(loader) == COUNT // 4
    assert len(by_hash(batches)) == COUNT
    for batch in batches:
        assert [tuple(group.shape) for group in batch.views] == [(2, 4, 3, 16, 16), (1, 4, 3, 8, 8)]
        assert {group.dtype for group in batch.views} == {torch.float32}
        assert batch.readable.tolist() == [True] * 4
        assert batch.labels.tolist() == [right[hashed][0] for hashed in batch.hashes.tolist()]
    for hashed, groups in by_hash(batches).items():
        for ours, theirs in zip(groups, right[hashed][1], strict=True):
            # Resident crops may differ by two levels, which colours then change.
            exact = way != "resident"
            assert torch.equal(ours, theirs) if exact else (ours - theirs).abs().mean() < 0.02


def in_memory_of_workers(tensor):
    """Whether it lies in a file of shared memory that torch has made."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(number, 16) for number in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return "/torch_" in line
    return False


@pytest.mark.parametrize("way", ["by position", "streamed"])
def test_on_a_cpu_workers_augment_and_crops_stay_as_they_are(folder, way):
    """Batches of 5: the last of an epoch are joined from what several workers have left."""
    loader = opened(folder, way, batch_size=5, workers=2, buffer=1)
    loader.set_epoch(2)
    views, crops = list(loader), list(loader.crops(2))
    assert in_memory_of_workers(views[0].views[0])
    assert all(group.is_contiguous() for batch in views for group in batch.views)
    assert {group.dtype for batch in crops for group in batch.views} == {torch.uint8}
    augment = Augment(GROUPS, 7, "cpu")
    same(views, [augment.augmented(batch, 2) for batch in crops])


def test_the_way_is_chosen_by_the_source_and_the_memory_allowed(folder):
    ways = {way: opened(folder, way) for way in WAYS}
    assert "24 images are decoded in the memory of cpu (0.00 GB of 4" in ways["resident"].note
    assert "24 images are read by position, in the calling process" in ways["by position"].note
    assert "24 images are read shard by shard" in ways["streamed"].note
    assert [ways[way].images for way in WAYS] == [COUNT] * 3
    assert len(ways["resident"].index) == len(ways["by position"].index) == COUNT
    assert ways["streamed"].index is None
    needed = COUNT * 3 * 32 * 32 / 1e9
    assert "decoded" in opened(folder, "resident", resident_gb=needed).note
    assert "by position" in opened(folder, "resident", resident_gb=needed - 1e-9).note
    assert "in 2 processes" in opened(folder, "streamed", workers=2).note


@pytest.mark.slow
@pytest.mark.parametrize(("way", "workers"), WITH_WORKERS)
def test_a_restart_in_mid_epoch_gives_the_rest_bit_for_bit(folder, boxes, way, workers):
    def loader():
        return opened(folder, way, boxes=boxes[1], workers=workers)

    first = loader()
    first.set_epoch(5)
    whole, states = [], [first.state_dict()]
    for batch in first:
        whole.append(batch)
        states.append(first.state_dict())
    second, following = loader(), list(first)
    for done, state in enumerate(states):
        again = second if done % 2 else loader()  # in one that has run, and in a fresh one
        again.load_state_dict(state)
        again.set_epoch(state["epoch"])  # what was resumed stays resumed
        rest = list(again)
        same(rest, whole[done:] if done < len(whole) else following)
        if done < len(whole):
            same(list(again), following)
    assert states[-1] == {**states[0], "epoch": 6, "batch": 0}


@pytest.mark.parametrize("way", WAYS)
def test_an_epoch_follows_the_other_and_one_broken_off_begins_anew(folder, way):
    loader = opened(folder, way)
    epochs = [list(loader), list(loader)]
    assert loader.state_dict()["epoch"] == 2
    for number, epoch in enumerate(epochs):
        other = opened(folder, way)
        other.set_epoch(number)
        for step, _ in enumerate(other):
            if step == 2:
                break
        assert (other.state_dict()["epoch"], other.state_dict()["batch"]) == (number, 3)
        same(list(other), epoch)
    loader.set_epoch(0)
    same(list(loader), epochs[0])
    assert by_hash(epochs[0]).keys() == by_hash(epochs[1]).keys()
    assert not torch.equal(epochs[0][0].key_hashes, epochs[1][0].key_hashes)


@pytest.mark.parametrize("way", WAYS)
def test_whoever_takes_as_many_batches_as_there_are_is_in_the_next_epoch(folder, way):
    """Lightning never asks for the batch after the last."""
    loader = opened(folder, way)
    for epoch in range(2):
        batches = iter(loader)
        for _ in range(len(loader)):
            next(batches)
        assert loader.state_dict()["epoch"] == epoch + 1


def test_a_stream_whose_images_are_not_counted_has_no_length(folder, boxes):
    loader = opened(folder, "streamed", shard_sizes=None)
    with pytest.raises(TypeError, match="`shard_sizes`"):
        len(loader)
    assert loader.images is None
    assert len(list(loader)) == COUNT // 4
    assert loader.state_dict()["epoch"] == 1
    assert len(opened(folder, "streamed", shard_sizes=None, boxes=boxes[0])) == COUNT // 4
    assert len(opened(folder, "streamed", batch_size=5, shard_sizes=[6, 6, 1, 6])) == 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("change", [{"batch_size": 8}, {"seed": 8}, {"world_size": 2}])
def test_a_state_of_another_order_is_refused(folder, way, change):
    state = opened(folder, way).state_dict()
    (name,) = change
    with pytest.raises(CcropError, match=rf"{name}: {state[name]} -> {change[name]}"):
        opened(folder, way, **change).load_state_dict(state)


def test_a_stream_resumes_with_the_same_workers_and_buffer(folder):
    state = opened(folder, "streamed").state_dict()
    with pytest.raises(CcropError, match=r"workers: 0 -> 2, buffer: 5 -> 6"):
        opened(folder, "streamed", workers=2, buffer=6).load_state_dict(state)
    opened(folder, "by position", workers=2).load_state_dict(
        opened(folder, "resident").state_dict()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("way", "workers"), WITH_WORKERS)
def test_boxes_change_between_epochs_also_for_workers_that_run(folder, boxes, way, workers):
    loader = opened(folder, way, workers=workers)

    def views_with(given):
        loader.use_boxes(given)
        loader.set_epoch(1)
        return by_hash(loader)

    def equal(a, b):
        return all(torch.equal(x, y) for key in b for x, y in zip(a[key], b[key], strict=True))

    random = views_with(None)
    first, second = views_with(boxes[0]), views_with(str(boxes[1]))
    assert not equal(first, random)
    assert not equal(first, second)
    for given in (BoxSet.open(boxes[0]), f"file://{boxes[0]}", str(boxes[0])):
        assert equal(views_with(given), first)
    assert equal(views_with(None), random)
    fresh = opened(folder, way, boxes=BoxSet.open(boxes[1]))
    fresh.set_epoch(1)
    assert equal(by_hash(fresh), second)


@pytest.mark.parametrize("way", WAYS)
def test_ranks_share_every_epoch(folder, way):
    loaders = [opened(folder, way, batch_size=6, rank=rank, world_size=2) for rank in range(2)]
    assert [len(loader) for loader in loaders] == [COUNT // 6] * 2
    seen = [hashed for loader in loaders for batch in loader for hashed in batch.hashes.tolist()]
    assert len(set(seen)) == len(seen) == COUNT


@pytest.mark.parametrize("way", WAYS)
def test_images_that_cannot_be_decoded_are_marked(folder, tmp_path, way):
    good = next(open_source(folder).read("data-000000"))
    samples = [Sample(f"{i}", good.image if i % 3 else b"no image", i) for i in range(4)]
    pack(samples, tmp_path / "tars")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (batch,) = opened(tmp_path / "tars", way)
    assert batch.readable.tolist() == [label % 3 > 0 for label in batch.labels.tolist()]


class Own:
    """An index of one's own."""

    keys, labels = ["a", "b", "c"], np.array([0, 1, -1])

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.keys)

    def read(self, i):
        return self.images[i]


def test_an_index_of_ones_own(folder):
    images = [sample.image for sample in open_source(folder).read("data-000000")]
    for gigabytes in (0, 1):
        (batch,) = ViewLoader(Own(images), ViewGroup(2, 8), batch_size=3, resident_gb=gigabytes)
        assert sorted(batch.labels.tolist()) == [-1, 0, 1]
        assert set(batch.hashes.tolist()) == {key_hash(key) for key in "abc"}


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_device_may_be_a_string(folder, device):
    assert next(iter(opened(folder, "resident", device=device))).views[0].device.type == "cpu"


@pytest.mark.parametrize("way", WAYS)
def test_what_makes_no_sense_is_refused(folder, boxes, way):
    with pytest.raises(CcropError, match="24 images, less than one batch of 25"):
        opened(folder, way, batch_size=25)
    with pytest.raises(CcropError, match="`batch_size` is 1; it must be 1 or more for each of 2"):
        opened(folder, way, batch_size=1, world_size=2)
    with pytest.raises(CcropError, match="rank is 2"):
        opened(folder, way, rank=2, world_size=2)
    with pytest.raises(CcropError, match="there is no folder"):
        opened(folder, way, boxes=boxes[0] / "nowhere")


def test_a_rank_of_a_stream_that_may_have_less_than_a_batch_is_refused(folder):
    with pytest.raises(CcropError, match=r"one of 2 processes .* 7 images, less than its 8 of"):
        opened(folder, "streamed", batch_size=16, world_size=2, shard_sizes=[9, 3, 4, 8])
    assert (
        len(opened(folder, "streamed", batch_size=14, world_size=2, shard_sizes=[9, 3, 4, 8])) == 1
    )


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"seed": -1}, "`seed` is -1"),
        ({"workers": -1}, "`workers` is -1"),
        ({"resident_gb": -0.5}, "`resident_gb` is -0.5"),
        ({"rank": 3}, "rank is 3"),
        ({"device": "nosuch"}, "device 'nosuch' cannot be used here"),
    ],
)
def test_a_setting_out_of_its_range_is_a_setting_error(folder, setting, says):
    with pytest.raises(SettingError, match=says):
        ViewLoader(open_source(folder), ViewGroup(2, 8), **{"batch_size": 2, **setting})


def test_a_folder_is_opened_as_open_source_does(folder):
    opened, named = (
        next(iter(ViewLoader(source, ViewGroup(2, 8), batch_size=2)))
        for source in (open_source(folder), folder)
    )
    assert torch.equal(opened.views[0], named.views[0])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["by position", "streamed"])
def test_workers_are_given_the_open_files_that_they_need(folder, boxes, way):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    expected = by_hash(opened(folder, way, boxes=boxes[0]))
    taken = len(os.listdir("/dev/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 8, before[1]))
    try:
        found = by_hash(opened(folder, way, boxes=boxes[0], workers=2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("workers", [-1, 1025, 10**12])
def test_no_machine_is_filled_with_loader_processes(folder, workers):
    with pytest.raises(CcropError, match=r"`workers` is -?\d+; it must be from 0 to 1024"):
        opened(folder, "positions", workers=workers)
