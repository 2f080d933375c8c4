import contextlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ccrop_pipeline.base import Ranks
from ccrop_pipeline.boxset import (
    BoxTable,
    Provenance,
    SourceInfo,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.crops import key_hash
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Sample, Scenes, decode_reduced, open_source
from ccrop_pipeline.views import ViewCutter, ViewGroup, ViewLoader
from ccrop_pipeline.views.streaming import StreamLoader, StreamViews

COUNTS = (7, 5, 0, 6, 4)  # images of the shards, one of them empty
TOTAL = sum(COUNTS)
CUTTER = ViewCutter((ViewGroup(2, 16, rule="overlap", alpha=0.3), ViewGroup(1, 8)), seed=7)


@dataclass
class Data:
    folder: Path
    samples: dict[str, list[Sample]]  # by shard
    boxes: list[Path]  # box sets
    tables: list[dict[str, np.ndarray]]  # their boxes by key

    @property
    def source(self):
        return open_source(self.folder)

    @property
    def keys(self):
        return sorted(sample.key for samples in self.samples.values() for sample in samples)


def write_samples(path: Path, samples: list[Sample]) -> None:
    with tarfile.open(path, "w") as tar:
        for sample in samples:
            for name, data in ((".png", sample.image), (".cls", b"%d" % sample.label)):
                info = tarfile.TarInfo(sample.key + name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_boxes(folder: Path, samples, seed=0, form="parquet", without=""):
    """Random boxes, and the same by key."""
    random = np.random.default_rng(seed)
    provenance = Provenance(None, None, SourceInfo("tar", "ab"), rule=f"{seed} {form} {without}")
    by_key = {}
    for shard, of_shard in samples.items():
        if shard == without:
            continue
        keys = [sample.key for sample in of_shard if sample.key != without]
        low = random.uniform(0, 0.4, (len(keys), 2))
        boxes = np.concatenate([low, low + random.uniform(0.2, 0.5, low.shape)], 1)
        boxes = boxes.astype(np.float32)
        by_key |= dict(zip(keys, boxes, strict=True))
        n = len(keys)
        table = BoxTable(
            keys,
            boxes,
            np.full((n, 2), 32, np.uint32),
            np.ones(n, np.uint8),
            np.zeros(n, np.uint8),
            np.zeros(n, np.uint64),
            random.random((n, 3, 3)).astype(np.float16),
        )
        write_shard(folder, shard, table, provenance, form=form)
    write_manifest(folder, [shard for shard in samples if shard != without], provenance, form=form)
    return folder, by_key


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("stream")
    (root / "tars").mkdir()
    scenes = Scenes(TOTAL, size=32)
    images = [s.image for shard in scenes.shards for s in scenes.read(shard)]
    samples, at = {}, 0
    for number, count in enumerate(COUNTS):
        samples[f"t-{number}"] = [
            Sample(f"d.{i % 3}/k{i}", images[i], i % 5) for i in range(at, at + count)
        ]
        at += count
        write_samples(root / f"tars/t-{number}.tar", samples[f"t-{number}"])
    sets = [write_boxes(root / "a", samples, 0), write_boxes(root / "b", samples, 1, "webdataset")]
    return Data(root / "tars", samples, [s[0] for s in sets], [s[1] for s in sets])


def expected(data, boxes, epoch):
    """Views by hash of the key, cut one image at a time."""
    views = {}
    for samples in data.samples.values():
        for key, image, label, _ in samples:
            hashes = np.array([key_hash(key)], np.uint64)
            box = None if boxes is None else boxes[key][None]
            views[int(hashes[0])] = (label, *CUTTER.cut([image], [key], hashes, box, epoch)[0])
    return views


def check(batches, views):
    """Each image comes once, with the views that it should have."""
    seen = []
    for batch in batches:
        for row, (hashed, label) in enumerate(
            zip(batch.hashes.tolist(), batch.labels.tolist(), strict=True)
        ):
            right_label, *groups = views[hashed]
            assert label == right_label
            for group, right in zip(batch.views, groups, strict=True):
                assert torch.equal(group[:, row], right[:, 0])
            seen.append(hashed)
        for group in batch.views:
            assert all(view.is_contiguous(memory_format=torch.channels_last) for view in group)
    assert len(seen) == len(set(seen))
    return seen


def same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.key_hashes, b.key_hashes)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.readable, b.readable)
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 11, 22, 30])
@pytest.mark.parametrize("workers", [0, 1, 3, 7])
def test_an_epoch_gives_each_image_once_in_full_batches(data, workers, batch_size):
    form = batch_size % 2
    loader = StreamLoader(
        data.source, CUTTER, batch_size=batch_size, images=TOTAL, workers=workers, buffer=4
    )
    loader.use_boxes(data.boxes[form])
    batches = list(loader.epoch(2))
    assert [len(batch.labels) for batch in batches] == [batch_size] * (TOTAL // batch_size)
    assert loader.batches == len(batches)
    # Each once and as it should be; with 1, 2, 11 and 22 a batch, all that there are.
    assert len(check(batches, expected(data, data.tables[form], 2))) == len(batches) * batch_size


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "workers"), [(1, 2), (2, 0), (3, 0), (3, 2)])
def test_ranks_share_the_images_out(data, world_size, workers):
    ranks = [
        StreamLoader(
            data.source,
            CUTTER,
            batch_size=1,
            workers=workers,
            buffer=2,
            ranks=Ranks(rank, world_size),
        )
        for rank in range(world_size)
    ]
    for epoch in range(2):
        batches = [batch for loader in ranks for batch in loader.epoch(epoch)]
        assert len(check(batches, expected(data, None, epoch))) == TOTAL


def test_more_ranks_than_shards_are_refused(data):
    with pytest.raises(CcropError, match="5 shards, too few for 6 processes"):
        StreamLoader(data.source, CUTTER, batch_size=3, ranks=Ranks(0, 6))


@pytest.mark.slow
@pytest.mark.parametrize("buffer", [1, 5])
@pytest.mark.parametrize(
    ("workers", "batch_size"), [(0, 2), (0, 5), (1, 2), (3, 2), (3, 5), (6, 3)]
)
def test_a_restart_goes_on_where_the_epoch_was_stopped(data, workers, batch_size, buffer):
    loader = StreamLoader(
        data.source, CUTTER, batch_size=batch_size, images=TOTAL, workers=workers, buffer=buffer
    )
    loader.use_boxes(data.boxes[0])
    whole = list(loader.epoch(3))
    for start in range(1, len(whole) + 2):
        same(list(loader.epoch(3, start)), whole[start:])
    same(list(loader.epoch(3)), whole)


def test_what_a_restart_leaves_out_is_not_decoded(tmp_path, monkeypatch):
    tried = []

    def noted(image, reduction):
        tried.append(image)
        return decode_reduced(image, reduction)

    monkeypatch.setattr("ccrop_pipeline.views.cutter.decode_reduced", noted)
    write_samples(tmp_path / "t.tar", [Sample(f"k{i}", b"no image", 0) for i in range(11)])
    loader = StreamLoader(open_source(tmp_path), CUTTER, batch_size=2, buffer=3)
    for start in range(6):
        tried.clear()
        list(loader.epoch(0, start))
        assert len(tried) == 11 - 2 * start


def test_workers_leave_out_what_comes_before_the_start_for_certain(data):
    views = StreamViews(data.source, CUTTER, batch_size=2, buffer=3)
    views.current.start = 3
    items = list(DataLoader(views, batch_size=None, num_workers=2))
    assert [item is None for item in items] == [True] * 3 + [False] * (len(items) - 3)
    sizes = [len(item) for item in items if item is not None and len(item) < 2]
    assert sum(sizes) % 2 == TOTAL % 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_running_workers_see_another_epoch_and_box_set(data, workers):
    loader = StreamLoader(data.source, CUTTER, batch_size=11, workers=workers)
    for epoch, number in ((0, 0), (1, 0), (1, 1), (0, None), (2, 1)):
        loader.use_boxes(None if number is None else data.boxes[number])
        table = None if number is None else data.tables[number]
        assert len(check(loader.epoch(epoch), expected(data, table, epoch))) == TOTAL


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_is_given_up_does_not_show_in_the_next(data, workers):
    loader = StreamLoader(data.source, CUTTER, batch_size=2, workers=workers)
    whole = list(loader.epoch(1))
    for taken in range(3):
        loader.use_boxes(data.boxes[0])
        given_up = loader.epoch(0, start=1)
        for _ in range(taken):
            next(given_up)
        given_up.close()
        loader.use_boxes(None)
        same(list(loader.epoch(1)), whole)


def test_the_order_of_one_worker_is_that_of_the_shards_or_shuffled(data):
    def order(epoch, buffer, seed=7):
        cutter = ViewCutter(CUTTER.groups, seed)
        batches = StreamLoader(data.source, cutter, batch_size=1, buffer=buffer).epoch(epoch)
        return [batch.hashes.item() for batch in batches]

    stored = {
        shard: [key_hash(sample.key) for sample in samples]
        for shard, samples in data.samples.items()
    }
    shards = [order(epoch, buffer=1) for epoch in range(4)]
    for hashes in shards:
        while hashes:
            (shard,) = (of for of in stored.values() if of[:1] == hashes[:1])
            assert hashes[: len(shard)] == shard
            hashes = hashes[len(shard) :]
    assert len({tuple(hashes) for hashes in shards}) > 1
    orders = [order(0, 1), order(0, 30), order(1, 30), order(0, 30, seed=8)]
    assert len({tuple(hashes) for hashes in orders}) == 4
    assert order(0, 30) == order(0, 30)


@pytest.mark.parametrize("form", [0, 1])
def test_only_the_box_shards_of_the_images_read_are_opened(data, form, tmp_path):
    folder, table = write_boxes(
        tmp_path / "boxes", data.samples, 4, ("parquet", "webdataset")[form]
    )
    loaders = [
        StreamLoader(data.source, CUTTER, batch_size=1, ranks=Ranks(rank, 2)) for rank in range(2)
    ]
    own = {batch.hashes.item() for batch in loaders[0].epoch(0)}
    for shard, samples in data.samples.items():
        if samples and not own & {key_hash(sample.key) for sample in samples}:
            (path,) = folder.glob(f"data/{shard}.*")
            path.write_bytes(b"?" * path.stat().st_size)
    loaders[0].use_boxes(folder)
    assert set(check(loaders[0].epoch(0), expected(data, table, 0))) == own
    loaders[1].use_boxes(folder)
    with pytest.raises(CcropError, match="B007"):
        list(loaders[1].epoch(0))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_without_a_box_is_an_error_or_keeps_the_full_box(data, workers, tmp_path):
    absent = data.samples["t-3"][2].key
    folder, table = write_boxes(tmp_path / "boxes", data.samples, 0, without=absent)
    strict = StreamLoader(data.source, CUTTER, batch_size=2, workers=workers)
    strict.use_boxes(folder)
    with pytest.raises(CcropError, match=rf"have no box .*such as '{absent}'"):
        list(strict.epoch(0))
    strict.use_boxes(None)
    assert len(check(strict.epoch(0), expected(data, None, 0))) == TOTAL
    loader = StreamLoader(data.source, CUTTER, batch_size=2, workers=workers, missing="full")
    loader.use_boxes(folder)
    table[absent] = np.array([0, 0, 1, 1], np.float32)
    assert len(check(loader.epoch(0), expected(data, table, 0))) == TOTAL


def test_a_shard_without_boxes_is_an_error_or_keeps_the_full_boxes(data, tmp_path):
    folder, table = write_boxes(tmp_path / "boxes", data.samples, 0, without="t-1")
    strict = StreamLoader(data.source, CUTTER, batch_size=4)
    strict.use_boxes(folder)
    with pytest.raises(CcropError, match=r"have no box in .*such as 'd.1/"):
        list(strict.epoch(0))
    loader = StreamLoader(data.source, CUTTER, batch_size=2, missing="full")
    loader.use_boxes(folder)
    full = dict.fromkeys(data.keys, np.array([0, 0, 1, 1], np.float32))
    assert len(check(loader.epoch(0), expected(data, full | table, 0))) == TOTAL


def test_a_folder_that_is_no_box_set_is_told_at_once(data, tmp_path):
    with pytest.raises(CcropError, match="not a box set"):
        StreamLoader(data.source, CUTTER, batch_size=4).use_boxes(tmp_path)


def test_the_number_of_images_gives_the_length_and_the_end(data):
    loader = StreamLoader(data.source, CUTTER, batch_size=4, images=13)
    assert loader.batches == 3
    whole = list(StreamLoader(data.source, CUTTER, batch_size=4).epoch(0))
    same(list(loader.epoch(0)), whole[:3])
    same(list(loader.epoch(0, 2)), whole[2:3])
    assert StreamLoader(data.source, CUTTER, batch_size=4).batches is None
    with pytest.raises(CcropError, match=r"gave 5 batches and not 6.* fewer\s+images than the 24"):
        list(StreamLoader(data.source, CUTTER, batch_size=4, images=24).epoch(0))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_tars_from_elsewhere_give_the_same_batches(data, workers):
    memory = fsspec.filesystem("memory")
    for path in data.folder.iterdir():
        memory.pipe(f"/stream/{path.name}", path.read_bytes())
    specs = (
        data.folder,
        "memory://stream/*.tar",
        f"file://{data.folder}/t-{{0..4}}.tar",
        f"pipe:cat {data.folder}/t-{{0..4}}.tar",
    )
    found = []
    for spec in specs:
        loader = StreamLoader(
            open_source(spec), CUTTER, batch_size=4, images=TOTAL, workers=workers, buffer=4
        )
        loader.use_boxes(data.boxes[0])
        found.append(list(loader.epoch(1)))
        same(found[-1], found[0])
    assert len(found[0]) == TOTAL // 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("form", [0, 1])
def test_boxes_elsewhere_give_the_same_views(data, workers, form):
    memory = fsspec.filesystem("memory")
    for path in data.boxes[form].rglob("*"):
        if path.is_file():
            relative = path.relative_to(data.boxes[form])
            memory.pipe(f"/boxes-{form}/{relative}", path.read_bytes())
    loader = StreamLoader(data.source, CUTTER, batch_size=11, images=TOTAL, workers=workers)
    for epoch, place in enumerate((f"memory://boxes-{form}", f"file://{data.boxes[form]}")):
        loader.use_boxes(place)
        views = expected(data, data.tables[form], epoch)
        assert len(check(loader.epoch(epoch), views)) == TOTAL


@pytest.mark.parametrize("workers", [0, 2])
def test_a_command_that_fails_ends_the_epoch_with_its_name(data, workers):
    spec = f"pipe:cat {data.folder}/t-{{0,1,3}}.tar; exit 3"
    loader = StreamLoader(open_source(spec), CUTTER, batch_size=2, workers=workers)
    with pytest.raises(CcropError, match=r"^the command of pipe:cat .*exit status 3"):
        list(loader.epoch(0))


@pytest.mark.filterwarnings("ignore:image")
def test_unreadable_images_are_marked_in_their_own_batch(data, tmp_path):
    bad = set()
    for number, shard in enumerate(("t-0", "t-1", "t-3")):
        samples = data.samples[shard].copy()
        for row in (1, -1):
            samples[row] = samples[row]._replace(image=b"no image")
            bad.add(key_hash(samples[row].key))
        write_samples(tmp_path / f"{number}.tar", samples)
    loader = StreamLoader(open_source(tmp_path), CUTTER, batch_size=3, workers=3)
    batches = list(loader.epoch(0))
    for batch in batches:
        grey = [hashed in bad for hashed in batch.hashes.tolist()]
        assert batch.readable.tolist() == [not of for of in grey]
        for group in batch.views:
            assert (group == 128).all(0).flatten(1).all(1).tolist() == grey
    assert sum(int((~batch.readable).sum()) for batch in batches) == 6


def test_beginning_an_epoch_draws_no_random_numbers_of_others(data):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(StreamLoader(data.source, CUTTER, batch_size=4).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_end_with_their_loader(data):
    others = {child.pid for child in multiprocessing.active_children()}
    source = open_source(f"file://{data.folder}/*.tar")
    loader = ViewLoader(source, CUTTER.groups, batch_size=2, workers=2)
    batches = iter(loader)
    next(batches)
    batches.close()
    assert len({child.pid for child in multiprocessing.active_children()} - others) == 2
    del batches, loader
    assert not {child.pid for child in multiprocessing.active_children()} - others


def test_workers_end_with_their_loader_after_an_error_too(data):
    others = {child.pid for child in multiprocessing.active_children()}
    spec = f"pipe:cat {data.folder}/t-{{0,1,3}}.tar; exit 3"
    loader = ViewLoader(open_source(spec), CUTTER.groups, batch_size=2, workers=2)
    with pytest.raises(CcropError):
        list(loader)
    del loader
    assert not {child.pid for child in multiprocessing.active_children()} - others


PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
from ccrop_pipeline.images import open_source
from ccrop_pipeline.views import ViewGroup, ViewLoader
source = open_source(f"pipe:cat {sys.argv[1]}/t-{{0,1}}.tar; sleep 60")
loader = ViewLoader(source, ViewGroup(1, 8), batch_size=2, workers=2, buffer=1)
for batch in loader:
    print("go", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_a_program_ends_no_process_is_left(data, end):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(data.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout.readline() == b"go\n"
            deadline = time.monotonic() + 50
            while sleeping(process.pid) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)  # the second worker may begin its command later
            descendants = tree(process.pid)
            assert len(descendants) >= 5  # two workers, each with a command that still runs
            # A terminal interrupts the whole group.
            (os.killpg if end == signal.SIGINT else os.kill)(process.pid, end)
            assert process.wait(50) != 0
        finally:
            process.kill()
    deadline = time.monotonic() + 10
    while (left := [pid for pid in descendants if running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def sleeping(root: int) -> int:
    """Number of commands below `root` that have come to their `sleep`."""
    names = []
    for pid in tree(root):
        with contextlib.suppress(OSError):
            names.append(Path(f"/proc/{pid}/comm").read_text().strip())
    return names.count("sleep")


def tree(root: int) -> list[int]:
    """Process ids below and with `root`."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
