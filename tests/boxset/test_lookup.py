"""Finding boxes by key through the memory-mapped cache."""

import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from table_strategies import PROVENANCE, keys, make_table, tables

from ccrop_pipeline.boxset import FULL_BOX, BoxLookup, BoxSet, BoxTable, write_manifest, write_shard
from ccrop_pipeline.boxset.lookup import key_hashes, sorted_words
from ccrop_pipeline.errors import CcropError


def make_set(folder: Path, *tables: BoxTable, form: str = "parquet") -> BoxSet:
    names = [f"s-{i}" for i in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        write_shard(folder, name, table, PROVENANCE, form=form)
    write_manifest(folder, names, PROVENANCE, form=form)
    return BoxSet.open(folder)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(tables(max_rows=30), st.lists(keys, max_size=5), st.randoms())
def test_find_agrees_with_a_dict(table: BoxTable, others: list[str], random: Random) -> None:
    expected = dict(zip(table.keys, table.boxes.tolist(), strict=True))
    wanted = [*table.keys, *table.keys[:3], *others]
    random.shuffle(wanted)
    with tempfile.TemporaryDirectory() as name:
        boxes, found = make_set(Path(name), table).lookup().find(wanted)
    assert boxes.dtype == np.float32
    assert boxes.shape == (len(wanted), 4)
    assert found.dtype == np.bool_
    assert found.tolist() == [key in expected for key in wanted]
    assert boxes.tolist() == [expected.get(key, list(FULL_BOX)) for key in wanted]


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_all_shards_are_found_and_the_cache_is_built_once(form: str, tmp_path: Path) -> None:
    one, two = make_table(["a", "b"], 1), make_table(["c"], 2)
    boxes = make_set(tmp_path / "boxes", one, two, form=form)
    found = boxes.lookup().find(["c", "a"])[0]
    assert found.tolist() == [two.boxes[0].tolist(), one.boxes[0].tolist()]
    (cache,) = (tmp_path / "boxes/.cache").iterdir()
    assert cache.stat().st_size == 24 + 32 * 3
    before = cache.stat().st_mtime_ns
    assert len(boxes.lookup()) == 3
    assert cache.stat().st_mtime_ns == before


def test_no_key_is_found_in_an_empty_box_set(tmp_path: Path) -> None:
    lookup = make_set(tmp_path, make_table([])).lookup()
    assert len(lookup) == 0
    assert lookup.find(["a"])[1].tolist() == [False]
    assert lookup.find([])[0].shape == (0, 4)


def test_a_key_that_is_no_unicode_text_is_not_found(tmp_path: Path) -> None:
    lookup = make_set(tmp_path, make_table(["a"])).lookup()
    assert lookup.find(["\udcff"])[1].tolist() == [False]


def test_a_changed_box_set_never_reads_the_old_cache(tmp_path: Path) -> None:
    boxes = make_set(tmp_path, make_table(["a"], 1))
    old = boxes.lookup().find(["a"])[0]
    for path in tmp_path.rglob("*.*"):
        path.unlink() if path.suffix != ".lookup" and path.is_file() else None
    new_table = make_table(["a"], 2)
    new = make_set(tmp_path, new_table).lookup().find(["a"])[0]
    assert new.tolist() == new_table.boxes.tolist()
    assert new.tolist() != old.tolist()


def test_where_the_folder_cannot_hold_the_cache_it_is_built_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(["a"])
    boxes = make_set(tmp_path / "boxes", table)
    # A file in the place of the cache folder refuses even a superuser.
    (tmp_path / "boxes/.cache").touch()
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    assert boxes.lookup().find(["a"])[0].tolist() == table.boxes.tolist()
    (private,) = (tmp_path / "temp").iterdir()
    assert private.stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in private.iterdir()] == [".lookup"]


def test_a_cache_in_a_folder_of_another_user_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = make_set(tmp_path / "boxes", make_table(["a"], 1))
    make_set(tmp_path / "theirs", make_table(["a"], 2)).lookup()
    (tmp_path / "boxes/.cache").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # What is ours on disk is another user's to the user that we claim to be.
    us = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: us)
    place = tmp_path / f"ccrop-{us}"
    place.mkdir(mode=0o700)
    (theirs,) = (tmp_path / "theirs/.cache").iterdir()
    planted = theirs.rename(place / f"{boxes.manifest.sha256}.lookup")
    with pytest.raises(CcropError, match=f"ccrop-{us} belongs to another user"):
        boxes.lookup()
    planted.unlink()
    with pytest.raises(CcropError, match=f"ccrop-{us} belongs to another user"):
        boxes.lookup()
    assert not list(place.iterdir())


def test_no_place_for_the_cache_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = make_set(tmp_path / "boxes", make_table(["a"]))
    (tmp_path / "boxes/.cache").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(CcropError, match="TMPDIR"):
        boxes.lookup()


def test_pickle_is_small_and_maps_the_same_file(tmp_path: Path) -> None:
    table = make_table([f"k{i}" for i in range(5000)], heatmaps=False)
    lookup = make_set(tmp_path, table).lookup()
    data = pickle.dumps(lookup)
    assert len(data) < 1000
    assert pickle.loads(data).find(["k77"])[0].tolist() == [table.boxes[77].tolist()]


def _build(folder: Path, results: "multiprocessing.Queue[list[float]]") -> None:
    results.put(BoxSet.open(folder).lookup().find(["k9"])[0][0].tolist())


def test_several_processes_may_build_at_once(tmp_path: Path) -> None:
    table = make_table([f"k{i}" for i in range(1000)])
    make_set(tmp_path, table)
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[list[float]] = context.Queue()
    builders = [context.Process(target=_build, args=(tmp_path, results)) for _ in range(6)]
    for builder in builders:
        builder.start()
    assert [results.get(timeout=20) for _ in builders] == [table.boxes[9].tolist()] * 6
    for builder in builders:
        builder.join()
    assert len(list((tmp_path / ".cache").iterdir())) == 1


def test_hashes_that_collide_lead_to_another_salt(tmp_path: Path) -> None:
    def weak(keys: Sequence[str], salt: int) -> NDArray[np.uint64]:
        return key_hashes(keys, salt) % np.uint64(8) if salt < 2 else key_hashes(keys, salt)

    table = make_table([f"k{i}" for i in range(20)])
    words = sorted_words(lambda: [table], weak)
    assert words[0] == 2
    words.tofile(tmp_path / "cache")
    boxes, found = BoxLookup(tmp_path / "cache").find([*table.keys, "other"])
    assert boxes[:20].tolist() == table.boxes.tolist()
    assert found.tolist() == [True] * 20 + [False]


def test_a_key_twice_is_told_rather_than_one_of_its_boxes_taken() -> None:
    table = make_table(["a", "b", "a"])
    with pytest.raises(CcropError, match="B018"):
        sorted_words(lambda: [table])


def test_salts_give_unrelated_hashes() -> None:
    names = [f"k{i}" for i in range(100)]
    assert not set(key_hashes(names, 0).tolist()) & set(key_hashes(names, 1).tolist())
