import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sources import folder_of, parquet_of, tar_of

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import (
    Source,
    SplitsError,
    absolute_spec,
    expand_braces,
    open_source,
    pack,
)
from ccrop_pipeline.images.source import write_classes


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("photos/*", "a pattern names files, and photos/cats is a folder. .* is in, 'photos'"),
        ("photos/{dogs,cats}", "a pattern names files, and photos/dogs is a folder"),
        ("photos/cats/1.jpg", r"is one image\. Give the folder, such as 'photos/cats'\."),
        ("photos/cats/*.jpg", r"means 2 images\. Give the folder, such as 'photos/cats'\."),
        ("bare", r"bare holds no images: found only empty folders \(one, two\)\."),
    ],
)
def test_what_is_almost_a_source_is_told_what_to_give(tmp_path, monkeypatch, spec, message):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "photos", ["cats/1.jpg", "cats/2.jpg", "dogs/3.jpg"])
    for name in ("one", "two"):
        (tmp_path / "bare" / name).mkdir(parents=True)
    with pytest.raises(CcropError, match=message):
        open_source(spec)


@pytest.mark.parametrize(
    ("pattern", "shards"),
    [
        ("data", ("a-000", "a-001", "b-000")),
        ("data/a-000.tar", ("a-000",)),
        ("data/a-*.tar", ("a-000", "a-001")),
        ("data/?-000.tar", ("a-000", "b-000")),
        ("data/a-{000..001}.tar", ("a-000", "a-001")),
        ("data/{b,a}-000.tar", ("b-000", "a-000")),
        ("data/{b-*,a-000}.tar", ("b-000", "a-000")),
    ],
)
def test_folders_files_and_patterns(tmp_path, monkeypatch, pattern, shards):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("b-000", "a-001", "a-000"):
        tar_of(tmp_path / f"data/{name}.tar", [name])
    for spec in (pattern, str(tmp_path / pattern)):
        source = open_source(spec)
        assert isinstance(source, Source)
        assert source.kind == "tar"
        assert source.shards == shards
        assert source.location == spec


def test_a_folder_is_what_lies_in_it(tmp_path):
    assert open_source(folder_of(tmp_path / "a", ["c/x.png"])).kind == "folder"
    (tmp_path / "b").mkdir()
    parquet_of(tmp_path / "b/x.parquet", ["x"])
    assert open_source(tmp_path / "b").kind == "parquet"
    (tmp_path / "c").mkdir()
    tar_of(tmp_path / "c/x.TAR", ["x"])
    folder_of(tmp_path / "c", ["notes/x.txt", "README.md"])
    source = open_source(tmp_path / "c")
    assert source.kind == "tar"
    assert source.ignored.counts == {"folders": 1, ".md": 1}


def test_what_was_left_beside_images_is_not_taken_for_them(tmp_path):
    folder_of(tmp_path / "a", [f"c/{i}.png" for i in range(4)])
    pq.write_table(pa.table({"file_name": ["c/0.png"]}), tmp_path / "a/metadata.parquet")
    tar_of(tmp_path / "a/old backup.tar", ["x"])
    parquet_of(tmp_path / "a/table.parquet", ["x"])
    source = open_source(tmp_path / "a")
    assert [s.key for s in source.read("a-000000")] == [f"c/{i}.png" for i in range(4)]
    assert source.ignored.counts == {".tar": 1, ".parquet": 2}
    (tmp_path / "b").mkdir()
    parquet_of(tmp_path / "b/data.parquet", ["x"])
    (tmp_path / "a/metadata.parquet").rename(tmp_path / "b/metadata.parquet")
    assert open_source(tmp_path / "b").shards == ("data",)


@pytest.mark.parametrize(
    ("shards", "images"), [(["old"], 1), (["data-000000"], 9), (["a", "b", "c"], 3), (["v2"], 9)]
)
def test_what_may_be_meant_either_way_is_refused(tmp_path, shards, images):
    folder_of(tmp_path / "x", [f"c/{i}.png" for i in range(images)])
    for name in shards:
        tar_of(tmp_path / f"x/{name}.tar", [name])
    said = rf"{len(shards)} shards? .* and {images} images? .*either"
    with pytest.raises(CcropError, match=said):
        open_source(tmp_path / "x")
    assert open_source(tmp_path / "x/*.tar").shards == tuple(shards)


@pytest.mark.parametrize(
    "names",
    [
        ["train-000000", "test-000000"],
        ["cifar-train-0", "cifar-val-0"],
        ["Training_1", "Validation_1"],
        ["000", "train-000"],
        ["photos-0", "test-0"],
    ],
)
def test_shards_of_several_splits_are_not_merged(tmp_path, names):
    for name in names:
        tar_of(tmp_path / f"{name}.tar", [name])
    for spec in (tmp_path, f"{tmp_path}/", tmp_path / "*.tar", f"file://{tmp_path}/*.tar"):
        with pytest.raises(CcropError, match=r"several splits: .*\.tar.* and ") as caught:
            open_source(spec)
        one, every = re.findall("'(.+?)'", str(caught.value))
        assert len(open_source(one).shards) == 1
        assert sorted(open_source(every).shards) == sorted(names)
    assert open_source(f"{tmp_path}/{{{','.join(names)}}}.tar").shards == tuple(names)
    assert open_source(f"{tmp_path}/{names[0]}*").shards == (names[0],)


def test_shards_in_folders_of_splits_are_not_merged(tmp_path):
    for name in ("train/a-0", "test/b-0"):
        (tmp_path / name).parent.mkdir()
        tar_of(tmp_path / f"{name}.tar", [name])
    for spec in (tmp_path / "*/*.tar", f"file://{tmp_path}/*/*.tar"):
        with pytest.raises(CcropError, match=r"several splits: test/b-0\.tar .*train/a-0\.tar"):
            open_source(spec)
    assert open_source(f"{tmp_path}/{{train,test}}/*.tar").shards == ("a-0", "b-0")


@pytest.mark.parametrize(
    "folders",
    [
        ["train", "test"],
        ["train/cat", "val/cat"],
        ["images/train2017", "images/val2017"],
        ["cat/train", "cat/test"],
        ["seg_train/sea", "seg_test/sea"],
        ["train/cat", "train/dog"],
        ["train", "unlabeled", "docs"],
        ["trainA", "trainB", "testA", "testB"],
        ["trainset", "testset"],
        ["TrainData", "HoldOut"],
    ],
)
def test_folders_of_splits_are_no_classes(tmp_path, folders):
    folder_of(tmp_path / "x", [f"{folder}/{i}.png" for i, folder in enumerate(folders)])
    with pytest.raises(CcropError, match=r"x.* is divided into splits .*Open one of them"):
        open_source(tmp_path / "x")


def test_who_asks_for_several_splits_learns_what_opens_each(tmp_path):
    folder_of(tmp_path / "x", ["images/train2017/0.png", "images/val2017/1.png"])
    folder_of(tmp_path / "y", [f"{c}/{s}/0.png" for c in "ab" for s in ("train", "test")])
    for name in ("train-0", "train-1", "test-0"):
        tar_of(tmp_path / f"{name}.tar", [name])
    with pytest.raises(SplitsError) as caught:
        open_source(tmp_path / "x")
    assert caught.value.splits == {
        "train": f"{tmp_path}/x/images/train2017",
        "validation": f"{tmp_path}/x/images/val2017",
    }
    with pytest.raises(SplitsError) as caught:
        open_source(tmp_path / "*.tar")
    assert open_source(caught.value.splits["train"]).shards == ("train-0", "train-1")
    with pytest.raises(SplitsError) as caught:  # a/train is not all that there is to train on
        open_source(tmp_path / "y")
    assert caught.value.splits == {}


def test_folders_of_splits_in_a_tar_are_not_merged(tmp_path):
    wrong = open_source(tar_of(tmp_path / "a.tar", ["x/train/0", "x/test/0"]))
    tar_of(tmp_path / "b.tar", ["train/1"])
    tar_of(tmp_path / "c.tar", ["test/1"])
    with pytest.raises(CcropError, match=r"a\.tar are of several splits \(x/test, x/train\)"):
        pack(wrong, tmp_path / "out")
    with pytest.raises(CcropError, match=r"several splits \(test, train\).*pack each"):
        pack(f"{tmp_path}/{{b,c}}.tar", tmp_path / "out")
    with pytest.raises(CcropError, match="several splits"):
        wrong.index()
    assert len(open_source(tmp_path / "b.tar").index()) == 1


def test_shards_of_boxes_beside_tars_are_passed_over(tmp_path):
    for name in ("a-0", "a-0.boxes"):
        tar_of(tmp_path / f"{name}.tar", [name.replace(".", "")])
    source = open_source(tmp_path)
    assert source.shards == ("a-0",)
    assert source.ignored.first == {".boxes.tar": ["a-0.boxes.tar"]}


@pytest.mark.parametrize("folders", [["train", "bus"], ["train station", "test tube", "sea"]])
def test_classes_that_are_named_like_splits_are_classes(tmp_path, folders):
    folder_of(tmp_path / "x", [f"{folder}/{i}.png" for i, folder in enumerate(folders)])
    assert open_source(tmp_path / "x").classes == tuple(sorted(folders))


@pytest.mark.parametrize("folder", ["b[v2]", "b{1,2}", "b*", "[b]/{c}"])
def test_a_folder_that_is_there_is_no_part_of_a_pattern(tmp_path, monkeypatch, folder):
    (tmp_path / folder).mkdir(parents=True)
    for name in ("d-000", "d-001"):
        tar_of(tmp_path / folder / f"{name}.tar", [name])
    monkeypatch.chdir(tmp_path)
    for rest in ("d-{000..001}.tar", "d-*.tar", "d-00?.tar"):
        for spec in (f"{folder}/{rest}", f"{tmp_path}/{folder}/{rest}"):
            assert open_source(spec).shards == ("d-000", "d-001")
            if "{" not in folder:
                remote = open_source(f"file://{tmp_path}/{folder}/{rest}")
                assert remote.shards == ("d-000", "d-001")
    monkeypatch.chdir(folder)
    lasting = absolute_spec("d-*.tar")
    monkeypatch.chdir("/")
    assert open_source(lasting).shards == ("d-000", "d-001")


@pytest.mark.parametrize("names", [b"a\xe9\n", b"\xff\xfea\0"])
def test_class_names_that_are_no_text_are_named(tmp_path, names):
    tar_of(tmp_path / "a.tar", ["x"])
    (tmp_path / "classes.txt").write_bytes(names)
    with pytest.raises(CcropError, match=r"classes\.txt is no list of class names .*byte 0x"):
        _ = open_source(tmp_path).classes


def test_class_names_are_lines_and_nothing_else_ends_one(tmp_path):
    tar_of(tmp_path / "a.tar", ["x"])
    (tmp_path / "classes.txt").write_text("a\u2028b\nc d\x0b\n", newline="")
    assert open_source(tmp_path).classes == ("a\u2028b", "c d\x0b")
    with pytest.raises(CcropError, match=r"class 'a\\nb' has a line break"):
        write_classes(tmp_path, ["a\nb", "c"])


def test_a_name_with_brackets_is_no_pattern(tmp_path):
    tar_of(tmp_path / "a[1].tar", ["x"])
    for spec in (tmp_path / "a[1].tar", f"file://{tmp_path}/a[1].tar"):
        assert open_source(spec).shards == ("a[1]",)


def test_what_was_found_and_what_is_accepted(tmp_path):
    folder_of(tmp_path / "x", ["sub/readme.txt", "a.csv", "b.csv"])
    with pytest.raises(CcropError, match=r"no images: found 2 \.csv .*1 \.txt.*Accepted are"):
        open_source(tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CcropError, match="found nothing"):
        open_source(tmp_path / "empty")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", "no file .*nowhere.*Accepted"),
        ("no-*.tar", r"no file .*no-\*\.tar"),
        ("a-{0..2}.tar", r"no file .*a-2\.tar"),
        ("c/img.png", "img.png is one image. Give the folder"),
        ("[ac]*", "names files, and .*c is a folder"),
        ("{a-0.tar,t.parquet}", r"files of type \.parquet, \.tar"),
        ("{a-0,*/a-0}.tar", r"shard name 'a-0': .*a-0\.tar and .*c.a-0\.tar"),
    ],
)
def test_wrong_specs_are_refused(tmp_path, spec, message):
    folder_of(tmp_path, ["c/img.png"])
    parquet_of(tmp_path / "t.parquet", ["x"])
    for name in ("a-0", "a-1", "c/a-0"):
        tar_of(tmp_path / f"{name}.tar", ["x"])
    with pytest.raises(CcropError, match=message):
        open_source(tmp_path / spec)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a{000..010}b", [f"a{n:03d}b" for n in range(11)]),
        ("{8..10}", ["8", "9", "10"]),
        ("{b,,c}{1..2}.tar", ["b1.tar", "b2.tar", "1.tar", "2.tar", "c1.tar", "c2.tar"]),
        ("{a,{0..1}/c}", ["a", "0/c", "1/c"]),
        # What is no pattern stays as it is: names of files, and the commands of a shell.
        ("a[0-9]{x,y}.tar", ["a[0-9]x.tar", "a[0-9]y.tar"]),
        ("a{b}.tar", ["a{b}.tar"]),
        ("a{}.tar", ["a{}.tar"]),
        ("a{b.tar", ["a{b.tar"]),
        ("a}{0..1}.tar", ["a}{0..1}.tar"]),
        (r"a\{0,1}", [r"a\0", r"a\1"]),
        (r"pipe:awk '{print $1}\n' ${A}", [r"pipe:awk '{print $1}\n' ${A}"]),
    ],
)
def test_braces_expand_as_in_a_shell(pattern, expected):
    assert list(expand_braces(pattern)) == expected


def test_names_with_brackets_and_braces_open(tmp_path):
    for name in ("a{0", "a{b}", "c[1]"):
        tar_of(tmp_path / f"{name}.tar", ["x"])
        assert open_source(tmp_path / f"{name}.tar").shards == (name,)
    assert open_source(tmp_path / "a{b}*").shards == ("a{b}",)
    with pytest.raises(CcropError, match=r"no file .*a{0\.\.1\.tar"):
        open_source(tmp_path / "a{0..1.tar")


def test_importing_sources_loads_no_torch():
    code = (
        "import sys, ccrop_pipeline.images; "
        "print([m for m in ('torch', 'torchvision', 'webdataset', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
