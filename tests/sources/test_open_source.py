import subprocess
import sys

import pytest
from braceexpand import braceexpand
from hypothesis import given
from hypothesis import strategies as st
from made_sources import folder_of, parquet_of, tar_of

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.sources import Source, expand_braces, open_source


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


word = st.text("ab-./", max_size=3)
counted = st.tuples(st.integers(0, 120), st.integers(0, 5)).flatmap(
    lambda p: st.sampled_from([f"{{{p[0]}..{p[0] + p[1]}}}", f"{{{p[0]:04d}..{p[0] + p[1]:04d}}}"])
)
listed = st.lists(word, min_size=2, max_size=3).map(lambda words: "{" + ",".join(words) + "}")


@given(st.lists(st.one_of(word, counted, listed), max_size=4).map("".join))
def test_braces_expand_as_in_the_shell(pattern):
    assert list(expand_braces(pattern)) == list(braceexpand(pattern))


def test_importing_sources_loads_no_torch():
    code = (
        "import sys, ccrop_pipeline.sources; "
        "print([m for m in ('torch', 'torchvision', 'webdataset', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
