import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
import tracemalloc

import pytest
import webdataset
from made_sources import DATA, needs_data, picture, read_in_worker, tar_of, write_tar

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import TarSource, open_source
from ccrop_pipeline.images import tar as tar_module
from ccrop_pipeline.images.decode import IMAGE_EXTENSIONS


def read_all(source):
    return [sample for shard in source.shards for sample in source.read(shard)]


def test_members_of_a_sample_come_in_any_order(tmp_path):
    a, b, c = picture(0), picture(1, "JPEG"), picture(2)
    write_tar(
        tmp_path / "x.tar",
        [
            ("d.e/a.cls", b"4\n"),
            ("d.e/a.PNG", a),
            ("d.e/a.mask.png", b"not the image"),
            ("b.jpeg", b),
            ("b.json", b'{"x": 1}'),
            ("README", b"no extension"),
            ("._b.jpeg", b"a hidden file"),
            ("c.cls", b"-1"),
            ("c.png", c),
        ],
    )
    assert read_all(open_source(tmp_path / "x.tar")) == [
        ("d.e/a", a, 4, None),
        ("b", b, None, b'{"x": 1}'),
        ("c", c, None, None),
    ]


@pytest.mark.parametrize(
    "name", ["cifar10-webdataset/test-000000", "objects-webdataset/objects-000001"]
)
@needs_data
def test_samples_are_those_webdataset_reads(name):
    path = DATA / f"{name}.tar"
    ours = list(open_source(path).read(path.stem))
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [s.key for s in ours] == [s["__key__"] for s in theirs]
    assert [s.image for s in ours] == [s["jpg"] for s in theirs]
    assert [s.annotation for s in ours] == [s.get("json") for s in theirs]
    assert [s.label for s in ours] == [int(s["cls"]) if "cls" in s else None for s in theirs]


@pytest.mark.parametrize(
    ("folder", "counts"),
    [
        ("cifar10-webdataset", {"test": 1000, "train": 5000}),
        ("clothing-webdataset", {"test": 250, "train": 900}),
        ("objects-webdataset", {"objects": 419}),
    ],
)
@needs_data
def test_real_shards_hold_what_their_readme_says(folder, counts):
    for split, count in counts.items():
        source = open_source(f"{DATA / folder}/{split}-*.tar")
        index = source.index()
        assert len(index) == len(set(index.keys)) == count
        if folder != "objects-webdataset":
            assert len(source.classes) == 10
            assert set(index.labels.tolist()) == set(range(10))


def test_index_equals_read(tmp_path):
    tar_of(tmp_path / "a-0.tar", ["x", "y/z", "ä"])
    tar_of(tmp_path / "a-1.tar", ["k" * 150, "w"])
    source = open_source(tmp_path)
    index = source.index()
    samples = read_all(source)
    assert list(index.keys) == [s.key for s in samples]
    assert index.labels.tolist() == [s.label for s in samples]
    assert [index.read(i) for i in range(len(index))] == [s.image for s in samples]
    assert index.shard_of.tolist() == [0, 0, 0, 1, 1]
    assert source.shards == ("a-0", "a-1")


def test_a_pickled_index_opens_its_own_files(tmp_path):
    tar_of(tmp_path / "a.tar", ["x", "y"])
    index = open_source(tmp_path).index()
    first = index.read(0)
    copy = pickle.loads(pickle.dumps(index))
    assert copy._open == {}
    assert copy.read(0) == first
    del index
    assert copy.read(1) == picture(1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process")
def test_workers_read_at_the_same_time(tmp_path, method):
    tar_of(tmp_path / "a.tar", [f"{i}" for i in range(100)])
    index = open_source(tmp_path).index()
    index.read(0)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    orders = [list(range(100)), list(range(99, -1, -1))]
    workers = [context.Process(target=read_in_worker, args=(index, o, queue)) for o in orders]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    expected = [picture(i) for i in range(100)]
    assert sorted(results) == sorted([expected, expected[::-1]])


def test_more_tars_than_descriptors_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_module, "_MAX_OPEN", 2)
    for i in range(5):
        write_tar(tmp_path / f"{i}.tar", [(f"{i}.png", picture(i))])
    index = open_source(tmp_path).index()
    assert [index.read(i) for i in range(5)] == [picture(i) for i in range(5)]
    assert len(index._open) == 2


@pytest.mark.slow
@pytest.mark.parametrize("limit", [64, 256])
def test_three_hundred_tars_fit_any_limit_of_descriptors(tmp_path, limit):
    for i in range(300):
        write_tar(tmp_path / f"{i:03}.tar", [(f"{i}.png", picture(i))])
    program = (
        "import sys, resource\n"
        "from ccrop_pipeline.images import open_source\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        "index = open_source(sys.argv[1]).index()\n"
        "print(sum(len(index.read(i)) for i in range(300)), len(index._open))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    bytes_read, descriptors = map(int, result.stdout.split())
    assert bytes_read == sum(len(picture(i)) for i in range(300))
    assert descriptors == limit // 4


def test_descriptors_are_closed_with_the_index(tmp_path):
    tar_of(tmp_path / "a.tar", ["x"])
    index = open_source(tmp_path).index()
    index.read(0)
    (descriptor,) = index._open.values()
    del index
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_an_index_reads_no_images(tmp_path):
    big = os.urandom(4_000_000)
    write_tar(tmp_path / "a.tar", [(f"{i}.jpg", big) for i in range(5)])
    source = open_source(tmp_path)
    tracemalloc.start()
    source.index()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_key_in_two_tars_is_refused_with_both(tmp_path):
    tar_of(tmp_path / "a.tar", ["x", "y"])
    tar_of(tmp_path / "b.tar", ["z", "w", "y"])
    with pytest.raises(CcropError, match=r"'y'.*image 1 of .*a\.tar and image 2 of .*b\.tar"):
        open_source(tmp_path).index()


@pytest.mark.parametrize("use", [read_all, TarSource.index])
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", b"1"), ("b.png", b"2"), ("a.cls", b"3")], "'a' occurs twice.*samples 0 and 2"),
        ([("a.png", b"1"), ("a.png", b"2")], r"two files a\.png"),
        ([("a.b.png", b"1")], r"0 images .*first dot of a name.*`ccrop data pack`"),
        ([("a.cls", b"1")], r"'a' in .*x\.tar has 0 images \(members: \.cls\)"),
        pytest.param(
            [("a.heic", b"1")],
            "0 images .*pip install pillow-heif",
            marks=pytest.mark.skipif("heic" in IMAGE_EXTENSIONS, reason="pillow-heif is installed"),
        ),
        ([("a.png", b"1"), ("a.jpg", b"2")], "'a' in .* has 2 images"),
        ([("a.png", b"1"), ("a.cls", b"cat")], "label b'cat' of key 'a'"),
    ],
)
def test_wrong_samples_are_refused(tmp_path, use, members, message):
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(CcropError, match=message):
        use(open_source(tmp_path / "x.tar"))


def whole_tar(tmp_path):
    return tar_of(tmp_path / "x.tar", ["a", "b", "c"])


def test_a_tar_cut_anywhere_is_refused(tmp_path):
    path = whole_tar(tmp_path)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        end = max(info.offset_data + info.size for info in tar)
    blocks = range(0, end, 512)
    for length in [*blocks, *(block + 100 for block in blocks), end - 1, end]:
        path.write_bytes(data[:length])
        with pytest.raises(CcropError, match=r"x\.tar"):
            read_all(open_source(path))
        with pytest.raises(CcropError, match=r"x\.tar"):
            open_source(path).index()


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    path = whole_tar(tmp_path)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[2].offset
    data[offset + 10] ^= 1
    path.write_bytes(data)
    with tarfile.open(path) as tar:
        assert len(tar.getmembers()) == 2, "tarfile itself does not notice"
    with pytest.raises(CcropError, match=f"damaged or cut off at byte {offset}"):
        read_all(open_source(path))


def test_a_compressed_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    with pytest.raises(CcropError, match="uncompressed tar"):
        read_all(open_source(tmp_path / "x.tar"))


def test_a_tar_shortened_after_the_scan_is_noticed(tmp_path):
    index = open_source(whole_tar(tmp_path)).index()
    path = tmp_path / "x.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(CcropError, match=r"x\.tar is cut off"):
        index.read(2)


def test_the_fingerprint_is_of_names_sizes_and_ends(tmp_path):
    for place in ("here", "there/deep"):
        (tmp_path / place).mkdir(parents=True)
        tar_of(tmp_path / place / "a.tar", ["x", "y"])
    here, there = open_source(tmp_path / "here"), open_source(tmp_path / "there/deep")
    before = here.fingerprint()
    assert before == there.fingerprint()
    tar_of(tmp_path / "here/b.tar", ["z"])
    added = open_source(tmp_path / "here").fingerprint()
    (tmp_path / "there/deep/a.tar").write_bytes(bytes(20_480))
    assert len({before, added, there.fingerprint()}) == 3


def test_the_fingerprint_tells_tars_of_one_size_apart(tmp_path):
    sizes, fingerprints = set(), set()
    for number, keys in enumerate((["x"], ["y"], ["x", "y"])):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / "a.tar"
        tar_of(path, keys)
        sizes.add(path.stat().st_size)
        fingerprints.add(open_source(path).fingerprint())
    assert (len(sizes), len(fingerprints)) == (1, 3)


def test_a_tar_that_went_is_named(tmp_path):
    source = open_source(whole_tar(tmp_path))
    index = source.index()
    (tmp_path / "x.tar").unlink()
    for use in (read_all, TarSource.index, lambda _: index.read(0)):
        with pytest.raises(CcropError, match=r"x\.tar cannot be opened \(no such file"):
            use(source)
