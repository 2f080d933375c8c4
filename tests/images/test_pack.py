import hashlib
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import webdataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_sources import DATA, folder_of, needs_data, parquet_of, picture, tar_of

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Sample, Scenes, open_source, pack, tar_key
from tests.counted import Counted


def read_all(source):
    return [sample for shard in source.shards for sample in source.read(shard)]


def samples_of(*keys):
    return [Sample(key, picture(i), i) for i, key in enumerate(keys)]


name = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1)
keys = st.lists(name, min_size=1, max_size=3).map("/".join)
samples = st.builds(
    Sample,
    key=st.one_of(keys, keys.map(lambda key: key + ".JPEG")),
    image=st.one_of(
        st.binary(max_size=1500), st.integers(0, 3).map(picture), st.just(picture(0, "JPEG"))
    ),
    label=st.none() | st.integers(0, 2**60),
    annotation=st.none() | st.binary(max_size=50),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(samples, min_size=1, max_size=8, unique_by=lambda s: tar_key(s.key)),
    st.integers(1, 4),
    st.integers(1, 4000),
)
@example([Sample("k" * 300 + ".png", b"", 0)], 1, 1)
@example([Sample("..", b"x", 0), Sample(".hidden.png", b"y", 0)], 1, 1)
def test_what_is_packed_is_read_back(made, max_images, max_bytes):
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        counted = Counted()
        summary = pack(
            made,
            out,
            prefix="p",
            max_images=max_images,
            max_bytes=max_bytes,
            observer=counted,
        )
        finished = counted.shards
        assert counted.done == [images for _, images in finished]
        source = open_source(out)
        assert read_all(source) == [s._replace(key=tar_key(s.key)) for s in made]
        assert summary.shards == source.shards == tuple(shard for shard, _ in finished)
        assert summary.shards == tuple(f"p-{i:06d}" for i in range(len(finished)))
        assert summary.images == sum(images for _, images in finished) == len(made)
        assert summary.bytes == sum(path.stat().st_size for path in source.paths)
        for shard, images in finished:
            sizes = [len(s.image) + len(s.annotation or b"") for s in source.read(shard)]
            assert len(sizes) == images <= max_images
            assert sum(sizes) <= max_bytes or images == 1


@pytest.mark.parametrize("key", ["0" * 1_025, "ab/" * 341 + "cd"])
def test_a_key_longer_than_readers_of_tars_take_is_refused(key, tmp_path):
    assert pack(samples_of(key[1:]), tmp_path / "out").images == 1
    assert [sample.key for sample in read_all(open_source(tmp_path / "out"))] == [key[1:]]
    with pytest.raises(CcropError, match="cannot name an image in a tar") as caught:
        pack(samples_of(key), tmp_path / "more")
    assert len(str(caught.value)) < 600


@given(keys)
def test_tar_keys_are_stable_and_survive_webdatasets_rule(key):
    made = tar_key(key)
    assert tar_key(made) == made
    folder, _, last = f"{made}.jpg".rpartition("/")
    assert (folder + "/" if folder or made.startswith("/") else "") + last.split(".")[0] == made


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("cat/1.jpg", "cat/1"),
        ("v1.2/a.b.c.PNG", "v1.2/a_b_c"),
        ("a.txt", "a_txt"),
        ("/abs/x.png", "abs/x"),
        (".jpg", "_jpg"),
    ],
)
def test_keys_become_member_names(key, expected):
    assert tar_key(key) == expected


@pytest.mark.parametrize("key", ["", "a/", "/", "a\0b", "a/x\ty.jpg", "a\x85.jpg", "\udce9.jpg"])
def test_keys_that_no_box_set_takes_are_refused(key):
    says = "; it holds a control character" if set(key) & {*"\0\t\x85\udce9"} else ""
    with pytest.raises(CcropError, match=f"cannot name an image in a tar{says}: rename the image"):
        tar_key(key)


def test_every_kind_of_source_packs_alike(tmp_path):
    names = ["ant/a.png", "bee/b.png", "cat/c.png"]
    folder = open_source(folder_of(tmp_path / "f", names))
    table = open_source(parquet_of(tmp_path / "t.parquet", names))
    first = pack(folder, tmp_path / "one")
    pack(table, tmp_path / "two")
    pack(open_source(tmp_path / "one"), tmp_path / "three")
    tars = [(tmp_path / n / "data-000000.tar").read_bytes() for n in ("one", "two", "three")]
    assert tars[0] == tars[1] == tars[2]
    assert (tmp_path / "one/classes.txt").read_text() == "ant\nbee\ncat\n"
    assert open_source(tmp_path / "three").classes == ("ant", "bee", "cat")
    assert not (tmp_path / "two/classes.txt").exists()
    assert first.images == 3


@needs_data
def test_real_shards_are_read_back_whole(tmp_path):
    source = open_source(DATA / "objects-webdataset")
    pack(source, tmp_path / "out", max_images=100)
    packed = open_source(tmp_path / "out")
    assert len(packed.shards) == 5
    assert read_all(packed) == read_all(source)


def test_the_bytes_do_not_depend_on_time_or_place(tmp_path):
    scenes = Scenes(20, size=32)
    digests = set()
    for place in ("a", "deep/b"):
        pack(scenes, tmp_path / place, prefix="s", max_images=20)
        data = (tmp_path / place / "s-000000.tar").read_bytes()
        digests.add(hashlib.sha256(data).hexdigest())
    assert len(digests) == 1
    with tarfile.open(tmp_path / "a/s-000000.tar") as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")
            assert info.mode == 0o644


def test_webdataset_reads_what_is_packed(tmp_path):
    scenes = Scenes(12, size=32)
    pack(scenes, tmp_path / "out", max_images=5)
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False))
    ours = read_all(scenes)
    assert [s["__key__"] for s in theirs] == [s.key for s in ours]
    assert [s["jpg"] for s in theirs] == [s.image for s in ours]
    assert [int(s["cls"]) for s in theirs] == [s.label for s in ours]
    assert [json.loads(s["json"]) for s in theirs] == [json.loads(s.annotation) for s in ours]


def test_a_damaged_image_stays_an_image(tmp_path):
    made = [Sample("a.webp", b"junk", 1), Sample("b", b"", None), Sample("c.txt", b"x", 0)]
    pack(made, tmp_path / "out")
    with tarfile.open(tmp_path / "out/data-000000.tar") as tar:
        assert tar.getnames() == ["a.webp", "a.cls", "b.jpg", "c_txt.jpg", "c_txt.cls"]


@pytest.mark.parametrize("pair", [("a/x.png", "a/x.jpg"), ("x.y", "x_y"), ("x", "x")])
def test_keys_that_collide_are_refused(tmp_path, pair):
    with pytest.raises(CcropError) as caught:
        pack(samples_of(*pair), tmp_path / "out", max_images=1)
    assert all(repr(key) in str(caught.value) for key in pair)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("starts", [["0", "0"], ["0", "1"], ["7", "8", "3"], ["7", "8", "8"]])
def test_keys_that_start_again_are_found_before_any_work(tmp_path, starts):
    kept = ["0", "1", "2"] if starts[0] == "0" else ["7", "3"]
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in/s-0.tar", kept)
    for number, start in enumerate(starts[1:], 1):
        tar_of(tmp_path / f"in/s-{number}.tar", [start, f"{start}x"])
    source, counted = open_source(tmp_path / "in"), Counted()
    with pytest.raises(CcropError, match=r"key '\d' is in .*s-[01]\.tar and in .*--keys shard/key"):
        pack(source, tmp_path / "out", observer=counted)
    assert not counted.shards
    assert not (tmp_path / "out.partial").exists()
    with pytest.raises(CcropError, match=r"occurs twice.*--keys shard/key"):
        source.index()
    pack(source, tmp_path / "out", keys="shard/key")
    packed = open_source(tmp_path / "out")
    expected = [
        (f"{shard}/{s.key}", s.image) for shard in source.shards for s in source.read(shard)
    ]
    assert [(s.key, s.image) for s in read_all(packed)] == expected
    assert len(packed.index()) == len(expected)


def test_only_advice_that_helps_is_given_where_two_keys_become_one(tmp_path):
    """Within a shard its name tells no keys apart."""
    source = open_source(folder_of(tmp_path / "photos", ["a.png", "a.jpg"]))
    for keys in ("key", "shard/key"):
        with pytest.raises(CcropError, match=r"would both be .*: rename one of the images\.$"):
            pack(source, tmp_path / "out", keys=keys)


def test_samples_alone_have_no_shards(tmp_path):
    with pytest.raises(CcropError, match="have no shards"):
        pack(samples_of("a"), tmp_path / "out", keys="shard/key")


def test_a_folder_in_use_is_left_alone(tmp_path):
    tar_of(tmp_path / "old.tar", ["x"])
    before = (tmp_path / "old.tar").read_bytes()
    with pytest.raises(CcropError, match="is not empty"):
        pack(samples_of("a"), tmp_path)
    with pytest.raises(CcropError, match=r"old\.tar is a file, and a folder is needed there"):
        pack(samples_of("a"), tmp_path / "old.tar")
    assert [p.name for p in tmp_path.iterdir()] == ["old.tar"]
    assert (tmp_path / "old.tar").read_bytes() == before


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    assert pack(samples_of("a"), tmp_path / "out").images == 1


def test_a_stopped_run_leaves_nothing_that_looks_complete(tmp_path):
    def stopping():
        yield from samples_of("a", "b", "c")
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        pack(stopping(), out, max_images=1)
    assert not out.exists()
    assert (tmp_path / "out.partial").is_dir()
    pack(samples_of("z"), out, max_images=1)
    assert [p.name for p in out.iterdir()] == ["data-000000.tar"]
    assert not (tmp_path / "out.partial").exists()


def test_of_two_at_once_one_packs_and_the_other_is_refused(tmp_path):
    out = tmp_path / "out"

    def slow():
        yield from samples_of("a", "b")
        with pytest.raises(CcropError, match=r"out\.partial is being written by process"):
            pack(samples_of("z"), out)
        yield from samples_of("c")

    assert pack(slow(), out, max_images=1).images == 3
    assert [s.key for s in read_all(open_source(out))] == ["a", "b", "c"]


@pytest.mark.slow
def test_processes_that_pack_at_once_lose_nothing(tmp_path):
    folder_of(tmp_path / "photos", [f"{i:03d}.png" for i in range(200)])
    code = (
        "import sys; from ccrop_pipeline.images import open_source, pack;"
        "print(pack(open_source(sys.argv[1]), sys.argv[2], max_images=5).images)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "photos"), str(tmp_path / "out")]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ended = [(*process.communicate(), process.returncode) for process in started]
    succeeded = [out for out, _, status in ended if status == 0]
    assert succeeded
    assert set(succeeded) == {"200\n"}
    assert all("is being written by" in error for _, error, status in ended if status)
    assert [s.key for s in read_all(open_source(tmp_path / "out"))] == [
        f"{i:03d}" for i in range(200)
    ]


def test_the_same_call_again_says_that_it_is_complete(tmp_path):
    names = ["a/x.png", "b/y.png"]
    source, out = open_source(folder_of(tmp_path / "f", names)), tmp_path / "out"
    first = pack(source, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = pack(source, out)
    assert again == replace(first, was_there=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (tmp_path / "out.partial").exists()
    # A kill in the very last steps leaves the folder in which it was written.
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/.ccrop.lock").touch()
    assert pack(source, out) == again
    assert not (tmp_path / "out.partial").exists()
    with pytest.raises(CcropError, match="is not empty"):
        pack(source, out, max_images=1)
    with pytest.raises(CcropError, match="is not empty"):
        pack(open_source(folder_of(tmp_path / "g", ["a/z.png"])), out)
    (out / "data-000000.tar").write_bytes(b"cut off")
    with pytest.raises(CcropError, match="is not empty"):
        pack(source, out)


@pytest.mark.parametrize("record", [b"", b"[]", b"{", b'{"shards": 1}', b"[" * 100_000])
def test_a_damaged_record_proves_nothing(tmp_path, record):
    source, out = open_source(folder_of(tmp_path / "f", ["a.png"])), tmp_path / "out"
    pack(source, out)
    (out / ".packed.json").write_bytes(record)
    with pytest.raises(CcropError, match="is not empty"):
        pack(source, out)


@pytest.mark.parametrize("out", [".", "..", "/", "../here"])
def test_the_working_folder_is_never_packed_into(tmp_path, monkeypatch, out):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(CcropError, match="Name a new folder"):
        pack(samples_of("a"), out)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_link_to_an_empty_folder_and_foreign_files_stay(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    (tmp_path / "disk.partial").mkdir()
    (tmp_path / "disk.partial/notes.txt").write_text("mine")
    assert pack(samples_of("a"), tmp_path / "out").images == 1
    assert len(read_all(open_source(tmp_path / "disk"))) == 1
    assert [path.name for path in (tmp_path / "disk.partial").iterdir()] == ["notes.txt"]


def test_nothing_to_pack_is_an_error(tmp_path):
    with pytest.raises(CcropError, match="no images to pack"):
        pack([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limits", [{"max_images": 0}, {"max_bytes": 0}])
def test_limits_below_one_are_the_programmers_error(tmp_path, limits):
    with pytest.raises(ValueError, match="both must be 1 or more"):
        pack(samples_of("a"), tmp_path / "out", **limits)
