"""A box set as a person uses it in Python: rows by key and in order, boxes of many keys."""

import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from table_strategies import PROVENANCE, make_table
from test_choices import make_set, with_choices

from ccrop_pipeline.boxset import (
    FULL_BOX,
    OK,
    STATUSES,
    UNREADABLE,
    BoxRow,
    BoxSet,
    BoxTable,
    MissingBoxError,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.errors import CcropError, SettingError


def expected_rows(*parts: BoxTable) -> list[BoxRow]:
    return [
        BoxRow(
            key=key,
            box=tuple(float(edge) for edge in part.boxes[row]),
            status=STATUSES[int(part.status[row])],
            width=int(part.sizes[row][0]),
            height=int(part.sizes[row][1]),
            orientation=int(part.orientation[row]),
            image_hash=int(part.image_hash[row]),
            choices=None
            if part.choices is None
            else tuple(tuple(map(float, box)) for box in part.choices.of_row(row)),
        )
        for part in parts
        for row, key in enumerate(part.keys)
    ]


@pytest.mark.parametrize("choices", [False, True])
def test_rows_are_found_by_key_and_come_in_order(choices: bool, tmp_path: Path) -> None:
    make = with_choices if choices else make_table
    parts = [make(list("dac"), 1), make_table([], heatmaps=False), make(["b"], 2), make(["e"], 3)]
    boxes = make_set(tmp_path, *parts)
    rows = expected_rows(*parts)
    assert list(boxes) == rows
    assert (len(boxes), [row.key for row in boxes]) == (5, list("dacbe"))
    assert [boxes[row.key] for row in reversed(rows)] == rows[::-1]
    assert all(row.key in boxes for row in rows)
    assert "x" not in boxes
    assert 3 not in boxes
    assert boxes["a"].box == rows[1].box


def test_a_row_tells_what_is_known_of_its_image(tmp_path: Path) -> None:
    table = make_table(["a", "b"], heatmaps=False)
    table.status[:], table.boxes[1] = [OK, UNREADABLE], FULL_BOX
    table.sizes[:], table.orientation[:] = [[640, 480], [0, 0]], [6, 1]
    boxes = make_set(tmp_path, table)
    assert boxes["a"][2:6] == ("ok", 640, 480, 6)
    assert boxes["b"][1:6] == (FULL_BOX, "unreadable", 0, 0, 1)


def test_only_the_shard_of_a_key_is_read(tmp_path: Path) -> None:
    boxes = make_set(tmp_path, make_table(["a"], 1), make_table(["b"], 2))
    boxes.find(["a", "b"])
    shard = tmp_path / "data/s-1.parquet"
    shard.write_bytes(b"?" * shard.stat().st_size)
    assert boxes["a"].key == "a"
    assert boxes.find(["b"]).shape == (1, 4)
    with pytest.raises(CcropError, match="B007 data/s-1"):
        boxes["b"]


@pytest.mark.parametrize("place", ["{}", "file://{}", None])
def test_a_box_set_is_opened_by_path_text_or_address(place: str | None, tmp_path: Path) -> None:
    table = make_table(["a"])
    make_set(tmp_path, table)
    boxes = BoxSet.open(place.format(tmp_path) if place else tmp_path)
    assert boxes.find(["a"]).tolist() == table.boxes.tolist()


def test_keys_that_are_missing_are_named_with_what_to_do(tmp_path: Path) -> None:
    boxes = make_set(tmp_path, make_table(["a", "b"]))
    message = r"^4 of 5 images have no box in .*, such as 'w', 'x', 'y'; its keys look like 'a'"
    with pytest.raises(MissingBoxError, match=message) as caught:
        boxes.find(["w", "x", "a", "y", "z"])
    assert "`missing` full" in str(caught.value)
    assert isinstance(caught.value, CcropError)
    with pytest.raises(KeyError, match=r"^1 of 1 images .*'x'"):
        boxes["x"]
    found = boxes.find(["x", "a"], missing="full")
    assert found.tolist() == [list(FULL_BOX), make_table(["a", "b"]).boxes[0].tolist()]


def test_a_lone_text_is_no_list_of_keys(tmp_path: Path) -> None:
    boxes = make_set(tmp_path, make_table(["a", "b"]))
    with pytest.raises(SettingError, match=r"keys is the text 'ab'; .* \['ab'\]"):
        boxes.find("ab")
    with pytest.raises(SettingError, match="missing is 'ful'"):
        boxes.find(["a"], missing="ful")


def test_an_empty_box_set_has_no_rows(tmp_path: Path) -> None:
    boxes = make_set(tmp_path)
    assert (len(boxes), list(boxes), "a" in boxes) == (0, [], False)
    with pytest.raises(MissingBoxError, match="look like None"):
        boxes["a"]


def test_a_pickle_holds_no_rows(tmp_path: Path) -> None:
    table = make_table([f"k{i}" for i in range(5000)], heatmaps=False)
    boxes = make_set(tmp_path, table)
    before = len(pickle.dumps(boxes))
    assert boxes["k77"].box == tuple(table.boxes[77].tolist())
    copy = pickle.dumps(boxes)
    assert len(copy) == before < 5000
    assert pickle.loads(copy)["k77"] == boxes["k77"]


@pytest.mark.slow
def test_iteration_holds_one_shard_at_a_time(tmp_path: Path) -> None:
    names = [f"s-{number}" for number in range(20)]
    for number, name in enumerate(names):
        keys = [f"{number}/{row}" for row in range(1000)]
        write_shard(tmp_path, name, make_table(keys, number), PROVENANCE)
    write_manifest(tmp_path, names, PROVENANCE)
    boxes = BoxSet.open(tmp_path)

    def peak(shards: int) -> int:
        tracemalloc.start()
        rows = iter(boxes)
        for _ in range(1000 * shards):
            next(rows)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(20) < 2 * peak(2)


def test_what_two_lookups_share_is_what_dicts_share(tmp_path: Path) -> None:
    one, two = make_table(list("abcd"), 1), make_table(list("xdyb"), 2)
    first, second = make_set(tmp_path / "1", one), make_set(tmp_path / "2", two)
    new, old = (part.tolist() for part in first.lookup().common(second.lookup()))
    pairs = {tuple(box): tuple(other) for box, other in zip(new, old, strict=True)}
    boxes = [dict(zip(t.keys, map(tuple, t.boxes.tolist()), strict=True)) for t in (one, two)]
    assert pairs == {boxes[0][key]: boxes[1][key] for key in "bd"}
    assert np.array_equal(*first.lookup().common(first.lookup()))


class Counted(tuple):
    """Shards that count how often they are gone through."""

    passes = 0

    def __iter__(self):
        Counted.passes += 1
        return super().__iter__()


def test_reading_shard_after_shard_goes_through_their_list_once(tmp_path: Path) -> None:
    boxes = make_set(tmp_path, *(make_table([f"k{number}"], 1) for number in range(12)))
    names = [entry.name for entry in boxes.manifest.shards]
    shards = Counted(boxes.manifest.shards)
    counting = BoxSet(boxes.folder, replace(boxes.manifest, shards=shards))
    Counted.passes = 0
    assert [counting.read(name).keys for name in names] == [[f"k{number}"] for number in range(12)]
    assert Counted.passes <= 1
