"""Finding boxes by key through the memory-mapped cache."""

import multiprocessing
import os
import pickle
import resource
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from table_strategies import PROVENANCE, keys, make_table, tables

from ccrop_pipeline.boxset import (
    FULL_BOX,
    BoxLookup,
    BoxSet,
    BoxTable,
    Choices,
    validate,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.boxset.lookup import key_hashes, sorted_words, write_cache
from ccrop_pipeline.errors import BoxSetError, CcropError


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
    cache = boxes.lookup().path
    assert not list((tmp_path / "boxes").rglob("*.lookup"))
    assert cache.stat().st_size == 32 + 32 + 32 * 3
    before = cache.stat().st_ino
    assert len(BoxSet.open(tmp_path / "boxes").lookup()) == 3
    assert cache.stat().st_ino == before


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
        path.unlink()
    new_table = make_table(["a"], 2)
    new = make_set(tmp_path, new_table).lookup().find(["a"])[0]
    assert new.tolist() == new_table.boxes.tolist()
    assert new.tolist() != old.tolist()


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave only a folder for temporary files; a file in the way refuses even a superuser."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    return tmp_path / "temp" / f"ccrop-{os.getuid()}"


def test_where_there_is_no_home_the_cache_is_built_elsewhere(tmp_path: Path, no_home: Path) -> None:
    table = make_table(["a"])
    boxes = make_set(tmp_path / "boxes", table)
    assert boxes.lookup().find(["a"])[0].tolist() == table.boxes.tolist()
    assert no_home.stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in no_home.iterdir()] == [".lookup"]


@pytest.mark.parametrize("way", ["owner", "mode", "link"])
def test_a_cache_in_a_folder_of_another_user_is_not_read(
    way: str, tmp_path: Path, no_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = make_set(tmp_path / "boxes", make_table(["a"], 1))
    no_home.mkdir(mode=0o700)
    if way == "owner":
        # What is ours on disk is another user's to the user that we claim to be.
        us = os.getuid() + 1
        no_home.rename(no_home.with_name(f"ccrop-{us}"))
        monkeypatch.setattr(os, "getuid", lambda: us)
    elif way == "mode":
        no_home.chmod(0o777)
    else:
        no_home.rename(tmp_path / "temp/elsewhere")
        no_home.symlink_to(tmp_path / "temp/elsewhere")
    with pytest.raises(CcropError, match=r"belongs to another user|by other users"):
        boxes.lookup()
    assert not list((tmp_path / "temp").rglob("*.lookup"))


def test_no_place_for_the_cache_is_told(
    tmp_path: Path, no_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = make_set(tmp_path / "boxes", make_table(["a"]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(CcropError, match="TMPDIR"):
        boxes.lookup()
    assert not (tmp_path / "nowhere").exists()


def test_a_cache_that_has_no_room_is_told(tmp_path: Path) -> None:
    boxes = make_set(tmp_path, make_table(["no room"]))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a disk that is full, only the last write fails.
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        with pytest.raises(
            CcropError, match=r"cannot be cached: .*\.lookup cannot be written: file"
        ):
            boxes.lookup()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def damages(content: bytes) -> Iterator[bytes]:
    """Yield a file cut, lengthened, emptied, of zeros, and with a bit of each part flipped."""
    yield from (b"", content[:-1], content[:-8], content[:31], content + bytes(8), bytes(200))
    for place in range(0, len(content), 5):
        yield content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]


@pytest.mark.parametrize("with_choices", [False, True])
def test_a_damaged_cache_is_built_again(with_choices: bool, tmp_path: Path) -> None:
    table = make_table(["a", "b"], heatmaps=False)
    if with_choices:
        table.choices = Choices.of([table.boxes[:1], table.boxes[1:]])
    boxes = make_set(tmp_path, table)
    cache = boxes.lookup().path
    content, expected = cache.read_bytes(), table.boxes.tolist()
    for damaged in damages(content):
        cache.write_bytes(damaged)
        assert [problem.rule for problem in validate(tmp_path)] == ["B032"]
        with pytest.raises(BoxSetError, match="is damaged"):
            BoxLookup(cache)
        assert BoxSet.open(tmp_path).find(["a", "b"]).tolist() == expected
        assert cache.read_bytes() == content
    assert validate(tmp_path) == []


def test_a_cache_that_came_with_the_box_set_is_not_read(tmp_path: Path) -> None:
    table = make_table(["a"], 1)
    boxes = make_set(tmp_path / "boxes", table)
    forged = sorted_words(lambda: [make_table(["a"], 2)])
    for layout in (3, 4):
        write_cache(
            tmp_path / f"boxes/{boxes.manifest.sha256}.{layout}.lookup",
            forged,
        )
        (tmp_path / "boxes/.cache").mkdir(exist_ok=True)
        path = tmp_path / f"boxes/.cache/{boxes.manifest.sha256}.{layout}.lookup"
        write_cache(path, forged)
    assert boxes.find(["a"]).tolist() == table.boxes.tolist()


def test_validate_compares_the_cache_with_the_shards(tmp_path: Path) -> None:
    tables = [make_table(["a", "b"], 1, heatmaps=False), make_table(["c"], 2, heatmaps=False)]
    boxes = make_set(tmp_path, *tables)
    path, others = boxes.lookup().path, [tables[0], make_table(["c"], 3, heatmaps=False)]
    assert validate(tmp_path) == []
    # Whole, and of this manifest by its name: only the rows can tell.
    for wrong in (others, tables[::-1], tables[:1]):
        write_cache(path, sorted_words(lambda of=wrong: of))  # type: ignore[misc]
        assert {problem.rule for problem in validate(tmp_path)} == {"B032"}


def test_a_shard_that_changed_is_not_cached(tmp_path: Path) -> None:
    boxes = make_set(tmp_path, make_table(["in no other test"]))
    shard = tmp_path / "data/s-0.parquet"
    content = bytearray(shard.read_bytes())
    content[40] ^= 1
    shard.write_bytes(content)
    with pytest.raises(BoxSetError, match=r"B007 data/s-0.parquet(?s:.*)boxes validate"):
        boxes.lookup()


def test_a_cache_that_nobody_used_for_long_is_removed(tmp_path: Path) -> None:
    old, kept = (make_set(tmp_path / name, make_table([name])).lookup().path for name in "ab")
    os.utime(old, (0, 0))
    os.utime(kept, (0, 0))
    BoxSet.open(tmp_path / "b").lookup()
    make_set(tmp_path / "c", make_table(["c"])).lookup()
    assert not old.exists()
    assert kept.exists()


def test_choices_in_some_shards_only_are_refused(tmp_path: Path) -> None:
    one, two = make_table(["a"], 1, heatmaps=False), make_table(["b"], 2, heatmaps=False)
    two.choices = Choices.of([two.boxes])
    for order in ([one, two], [two, one]):
        with pytest.raises(BoxSetError, match="B028"):
            sorted_words(lambda of=order: of)  # type: ignore[misc]


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
    assert [results.get(timeout=60) for _ in builders] == [table.boxes[9].tolist()] * 6
    for builder in builders:
        builder.join()
    assert not list(tmp_path.rglob("*.lookup"))


def test_hashes_that_collide_lead_to_another_salt(tmp_path: Path) -> None:
    def weak(keys: Sequence[str], salt: int) -> NDArray[np.uint64]:
        return key_hashes(keys, salt) % np.uint64(8) if salt < 2 else key_hashes(keys, salt)

    table = make_table([f"k{i}" for i in range(20)])
    words = sorted_words(lambda: [table], weak)
    assert words[0] == 2
    write_cache(tmp_path / "cache", words)
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
