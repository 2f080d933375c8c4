"""Boxes of a folder found by the keys of its tars, and those of tars by keys of their folder."""

import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_strategies import PROVENANCE, make_table

from ccrop_pipeline.boxset import BoxLookup, BoxSet, convert, validate, write_manifest, write_shard
from ccrop_pipeline.boxset.lookup import sorted_words, write_cache
from ccrop_pipeline.boxset.reader import MissingBoxError
from ccrop_pipeline.errors import BoxSetError

_NAMES = st.lists(st.sampled_from(["a", "é", ".", "/a", ".jpg", ".PNG", ".txt"]), min_size=1)
_KEYS = st.lists(_NAMES.map("".join), unique=True, max_size=7)


def lookup_of(folder: str | Path, keys: list[str]) -> BoxLookup:
    write_cache(Path(folder) / "cache", sorted_words(lambda: [make_table(keys, heatmaps=False)]))
    return BoxLookup(Path(folder) / "cache")


def in_tar(key: str) -> str:
    """The key of the member that WebDataset would find."""
    *folders, last = key.lstrip("/").split("/")
    stem = PurePosixPath(last)
    last = stem.stem if stem.suffix.lower() in (".jpg", ".png") else last
    return "/".join([*folders, last.replace(".", "_")])


def meant(key: str, keys: list[str]) -> str | None:
    if key in keys:
        return key
    if in_tar(key) in keys:
        return in_tar(key)
    alike = [other for other in keys if in_tar(other) == key]
    return alike[0] if len(alike) == 1 else None


@settings(max_examples=60, deadline=None)
@given(_KEYS, _KEYS, st.randoms())
def test_the_lookup_agrees_with_the_definition(keys, wanted, random) -> None:
    wanted = [*wanted, *map(in_tar, keys[:3])]
    found = {key: meant(key, keys) for key in wanted}
    # Two keys that mean one row are two images, of which none is it but one that is the row's own.
    expected = {
        key: row for key, row in found.items() if key == row or list(found.values()).count(row) == 1
    }
    asked = wanted * 2
    random.shuffle(asked)
    with tempfile.TemporaryDirectory() as folder:
        rows = lookup_of(folder, keys).rows(asked)
    assert rows.tolist() == [keys.index(expected[k]) if expected.get(k) else -1 for k in asked]


@given(_KEYS, _KEYS)
@settings(max_examples=30, deadline=None)
def test_two_sets_share_the_boxes_that_keys_find(one, two) -> None:
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        mine, theirs = lookup_of(a, one), lookup_of(b, two)
        own, other = mine.common(theirs)
        rows = theirs.rows(one)
        boxes = theirs.find(two)[0]
        pairs = {(*p, *q) for p, q in zip(own.tolist(), other.tolist(), strict=True)}
        for box, row in zip(mine.find(one)[0].tolist(), rows.tolist(), strict=True):
            assert row < 0 or (*box, *boxes[row].tolist()) in pairs


def made(folder: Path, *shards: list[str], form: str = "parquet") -> BoxSet:
    names = [f"s-{i}" for i in range(len(shards))]
    for i, keys in enumerate(shards):
        write_shard(folder, names[i], make_table(keys, i), PROVENANCE, form=form)
    write_manifest(folder, names, PROVENANCE, form=form)
    return BoxSet.open(folder)


def test_files_that_differ_in_their_ending_are_told_apart_or_refused(tmp_path) -> None:
    boxes = made(tmp_path / "folder", ["1.jpg", "1.png", "2.jpg"])
    assert boxes["1.png"].key == "1.png"
    assert boxes["2"].key == "2.jpg"
    assert "1" not in boxes  # which of the two?
    assert "2.png" not in boxes  # another file
    tars = made(tmp_path / "tars", ["1", "2"])
    assert tars["1.jpg"].key == "1"
    assert tars.find(["1.jpg", "2.JPEG"]).tolist() == tars.find(["1", "2"]).tolist()
    with pytest.raises(MissingBoxError, match=r"2 of 3 images.*2 of them would be '1' in a tar"):
        tars.find(["1.jpg", "1.png", "2.jpg"])
    assert tars.lookup().rows(["1.jpg", "1.png", "1", "2.jpg"]).tolist() == [-1, -1, 0, 1]


def test_the_webdataset_form_has_keys_of_a_folder_as_its_tars_do(tmp_path) -> None:
    boxes = made(tmp_path / "folder", ["cats/1.jpg", "cats/a.b.JPG"], ["é", "v1.0/x.png"])
    convert(tmp_path / "folder", tmp_path / "tars", form="webdataset")
    tars = BoxSet.open(tmp_path / "tars")
    assert [row.key for row in tars] == ["cats/1", "cats/a_b", "é", "v1.0/x"]
    assert validate(tmp_path / "tars") == []
    keys = [row.key for row in boxes]
    assert np.array_equal(tars.find(keys), boxes.find(keys))
    convert(tmp_path / "tars", tmp_path / "back", form="parquet")
    assert np.array_equal(BoxSet.open(tmp_path / "back").find(keys), boxes.find(keys))


def test_two_keys_that_would_be_one_in_the_webdataset_form_are_named(tmp_path) -> None:
    made(tmp_path / "one", ["1.jpg", "1.png"])
    with pytest.raises(BoxSetError, match=r"'1.jpg' and '1.png' would both be '1' in s-0.boxes"):
        convert(tmp_path / "one", tmp_path / "out", form="webdataset")
    made(tmp_path / "two", ["1.jpg"], ["1.png"])
    with pytest.raises(BoxSetError, match="B018"):
        convert(tmp_path / "two", tmp_path / "more", form="webdataset")
    assert not (tmp_path / "more/manifest.json").exists()
