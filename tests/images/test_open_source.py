import subprocess
import sys

import pytest
from made_sources import folder_of, parquet_of, tar_of

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Source, expand_braces, open_source


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
    folder_of(tmp_path / "data", ["cat/a.png"])
    for name in ("b-000", "a-001", "a-000"):
        tar_of(tmp_path / f"data/{name}.tar", [name])
    for spec in (pattern, str(tmp_path / pattern)):
        source = open_source(spec)
        assert isinstance(source, Source)
        assert source.kind == "tar"
        assert source.shards == shards
        assert source.location == spec


def test_a_folder_is_what_lies_in_it(tmp_path):
    folder_of(tmp_path / "a", ["c/x.png"])
    assert open_source(tmp_path / "a").kind == "folder"
    parquet_of(tmp_path / "a/x.parquet", ["x"])
    assert open_source(tmp_path / "a").kind == "parquet"
    tar_of(tmp_path / "a/x.tar", ["x"])
    assert open_source(tmp_path / "a").kind == "tar"


def test_a_name_with_brackets_is_no_pattern(tmp_path):
    tar_of(tmp_path / "a[1].tar", ["x"])
    assert open_source(tmp_path / "a[1].tar").shards == ("a[1]",)


def test_what_was_found_and_what_is_accepted(tmp_path):
    folder_of(tmp_path / "x", ["sub/readme.txt", "a.csv", "b.csv"])
    with pytest.raises(CcropError, match=r"no images: found 2 \.csv, 1 folders.*Accepted are"):
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
        ("c/img.png", r"files of type \.png"),
        ("[ac]*", "no file .*c"),
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
