"""Boxes of a folder found by the keys of its tars, and those of tars by keys of their folder."""

import itertools
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


def partners(keys: list[str], others: list[str]) -> dict[str, str]:
    """The other key that each belongs to."""
    pairs = {key: key for key in keys if key in others}
    for key, other in itertools.product(keys, others):
        called = in_tar(key) == other or key == in_tar(other)
        longer, beside = (key, keys) if in_tar(key) != key else (other, others)
        alone = [each for each in beside if in_tar(each) == in_tar(longer)] == [longer]
        if called and alone and key not in others and other not in keys:
            assert key not in pairs
            pairs[key] = other
    assert len(set(pairs.values())) == len(pairs)
    return pairs


def edges(lookup: BoxLookup, keys: list[str]) -> list[tuple[float, ...]]:
    return [tuple(box) for box in lookup.find(keys)[0].tolist()]


@settings(max_examples=100, deadline=None)
@given(_KEYS, _KEYS, st.randoms())
def test_the_lookup_agrees_with_the_definition(keys, wanted, random) -> None:
    wanted = [*dict.fromkeys([*wanted, *map(in_tar, keys[:3])])]
    pairs = partners(wanted, keys)
    asked = wanted * 2
    random.shuffle(asked)
    with tempfile.TemporaryDirectory() as folder:
        rows = lookup_of(folder, keys).rows(asked)
    assert rows.tolist() == [keys.index(pairs[k]) if k in pairs else -1 for k in asked]


@settings(max_examples=100, deadline=None)
@given(_KEYS, _KEYS, st.integers(1, 7))
def test_two_sets_meet_as_their_keys_do_however_they_are_cut(one, two, size) -> None:
    pairs = partners(one, two)
    assert partners(two, one) == {other: key for key, other in pairs.items()}
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        mine, theirs = lookup_of(a, one), lookup_of(b, two)
        own, other = mine.common(theirs)
        met = [(tuple(p), tuple(q)) for p, q in zip(own.tolist(), other.tolist(), strict=True)]
        expected = zip(edges(mine, [*pairs]), edges(theirs, [*pairs.values()]), strict=True)
        assert sorted(met) == sorted(expected)
        for start in range(0, len(one), size):
            part = one[start : start + size]
            boxes, found = theirs.find(part, among=mine)
            assert found.tolist() == [key in pairs for key in part]
            own = [pairs[key] for key in part if key in pairs]
            assert [tuple(box) for box in boxes[found].tolist()] == edges(theirs, own)


def test_a_row_is_met_once(tmp_path) -> None:
    one = made(tmp_path / "one", ["1", "1.jpg"]).lookup()
    two = made(tmp_path / "two", ["1.jpg"]).lookup()
    for lookups in ((one, two), (two, one)):
        assert [len(boxes) for boxes in lookups[0].common(lookups[1])] == [1, 1]


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


def test_keys_that_only_look_alike_are_told_so(tmp_path) -> None:
    boxes = made(tmp_path / "boxes", ["e\u0301.jpg", "b.jpg"])
    for key in ("\u00e9.jpg", "\u00e9"):
        with pytest.raises(MissingBoxError, match=r"accents \(NFC or NFD\)"):
            boxes.find([key, "b.jpg"])
    with pytest.raises(MissingBoxError) as caught:
        boxes.find(["c.jpg"])
    assert "NFC" not in str(caught.value)


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
