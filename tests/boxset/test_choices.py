"""Several boxes a row: the arrays, and finding them by key."""

import tempfile
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_strategies import PROVENANCE, keys, make_table, tables

from ccrop_pipeline.boxset import (
    FULL_BOX,
    BoxSet,
    BoxTable,
    Choices,
    MissingBoxError,
    validate,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.errors import CcropError

_boxes = st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), max_size=4)
_rows = st.lists(_boxes, max_size=8)


def made(rows: list[list[tuple[float, ...]]]) -> Choices:
    return Choices.of([np.array(row, np.float32).reshape(-1, 4) for row in rows])


def listed(choices: Choices) -> list[list[tuple[float, ...]]]:
    return [list(map(tuple, choices.of_row(row).tolist())) for row in range(len(choices))]


def with_choices(names: list[str], seed: int = 0) -> BoxTable:
    rng, table = np.random.default_rng(seed), make_table(names, seed, heatmaps=False)
    rows = []
    for _ in names:
        low = rng.random((rng.integers(1, 5), 2), np.float32) / 2
        rows.append(np.concatenate([low, low + 0.25], axis=1))
    table.choices = Choices.of(rows)
    table.boxes = table.choices.union()
    return table


def make_set(folder: Path, *parts: BoxTable, form: str = "parquet") -> BoxSet:
    names = [f"s-{i}" for i in range(len(parts))]
    for name, table in zip(names, parts, strict=True):
        write_shard(folder, name, table, PROVENANCE, form=form)
    write_manifest(folder, names, PROVENANCE, form=form)
    return BoxSet.open(folder)


@given(_rows, st.lists(st.integers(0, 7), max_size=10))
def test_rows_are_kept_and_taken_like_lists(rows: list[list[tuple[float, ...]]], wanted: list[int]):
    choices = made(rows)
    assert listed(choices) == rows
    assert choices.counts.tolist() == [len(row) for row in rows]
    wanted = [row for row in wanted if row < len(rows)]
    assert listed(choices.take(np.array(wanted, np.int64))) == [rows[row] for row in wanted]


@given(st.lists(_boxes.filter(bool), max_size=8), st.randoms())
def test_union_and_pick_agree_with_loops(rows: list[list[tuple[float, ...]]], random: Random):
    choices = made(rows)
    expected = [
        [min(b[0] for b in r), min(b[1] for b in r), max(b[2] for b in r), max(b[3] for b in r)]
        for r in rows
    ]
    assert choices.union().tolist() == expected
    numbers = [random.random() for _ in rows]
    picked = choices.pick(np.array(numbers, np.float64))
    assert picked.dtype == np.float32
    for box, number, row in zip(picked.tolist(), numbers, rows, strict=True):
        assert tuple(box) == row[int(number * len(row))]


def test_each_of_k_boxes_has_the_kth_part_of_the_numbers() -> None:
    for count in range(1, 9):
        choices = made([[(i / 8, 0, 1, 1) for i in range(count)]] * (100 * count))
        numbers = (np.arange(100 * count) + 0.5) / (100 * count)
        picked = choices.pick(numbers)[:, 0]
        assert [(picked == i / 8).sum() for i in range(count)] == [100] * count


def test_a_number_next_to_one_picks_the_last_box() -> None:
    choices = made([[(i / 3, 0, 1, 1) for i in range(3)]])
    assert choices.pick(np.array([np.nextafter(1, 0)])).tolist() == [list(choices.boxes[2])]


@pytest.mark.parametrize(
    ("boxes", "starts"),
    [
        (np.zeros((2, 4)), np.array([0, 2])),
        (np.zeros((2, 3), np.float32), np.array([0, 2])),
        (np.zeros((2, 4), np.float32), np.array([0, 1])),
        (np.zeros((2, 4), np.float32), np.array([1, 2])),
        (np.zeros((2, 4), np.float32), np.array([0, 2], np.int32)),
        (np.zeros((0, 4), np.float32), np.array([], np.int64)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(boxes: np.ndarray, starts: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must"):
        Choices(boxes, starts)


def test_a_table_needs_choices_of_every_row() -> None:
    table = with_choices(["a", "b"])
    with pytest.raises(ValueError, match="choices for 1 of 2 rows"):
        BoxTable(
            table.keys, table.boxes, table.sizes, table.orientation, table.status, table.image_hash,
            choices=table.choices.take(np.array([0])),
        )  # fmt: skip


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(tables(max_rows=20), st.lists(keys, max_size=5), st.randoms())
def test_lookup_agrees_with_a_dict(table: BoxTable, others: list[str], random: Random) -> None:
    wanted = [*table.keys, *table.keys[:3], *others]
    random.shuffle(wanted)
    with tempfile.TemporaryDirectory() as name:
        lookup = make_set(Path(name), table).lookup()
        boxes, found = lookup.find(wanted)
        choices = lookup.choices(wanted)
    expected = dict(zip(table.keys, table.boxes.tolist(), strict=True))
    assert boxes.tolist() == [expected.get(key, list(FULL_BOX)) for key in wanted]
    assert found.tolist() == [key in expected for key in wanted]
    assert (choices is None) == (table.choices is None)
    if choices is not None:
        rows = dict(zip(table.keys, listed(table.choices), strict=True))
        assert listed(choices) == [rows.get(key, [FULL_BOX]) for key in wanted]


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_all_shards_are_found_also_beside_an_empty_one(form: str, tmp_path: Path) -> None:
    one, two = with_choices(["a", "b"], 1), with_choices(["c"], 2)
    boxes = make_set(tmp_path, one, make_table([], heatmaps=False), two, form=form)
    assert validate(tmp_path) == []
    lookup = boxes.lookup()
    assert len(lookup) == 3
    assert listed(lookup.choices(["c", "b"])) == [listed(two.choices)[0], listed(one.choices)[1]]
    assert lookup.find(["b"])[0].tolist() == [one.boxes[1].tolist()]


def test_without_choices_the_cache_has_no_word_more(tmp_path: Path) -> None:
    lookup = make_set(tmp_path, make_table(["a", "b"], heatmaps=False)).lookup()
    assert lookup.path.stat().st_size == 32 + 32 + 32 * 2
    assert lookup.choices(["a"]) is None


def test_a_shard_with_and_one_without_are_no_box_set(tmp_path: Path) -> None:
    with pytest.raises(CcropError, match=r"B028 s-1.parquet: s-1.parquet has no choices, and s-0"):
        make_set(tmp_path, with_choices(["a"]), make_table(["b"], heatmaps=False))


@pytest.mark.parametrize("missing", ["error", "full"])
def test_a_missing_key_has_the_full_box_as_its_choice_or_is_an_error(
    missing: str, tmp_path: Path
) -> None:
    table = with_choices(["a"])
    boxes = make_set(tmp_path, table)
    assert listed(boxes.choices(["a"], missing=missing)) == listed(table.choices)
    if missing == "full":
        found = boxes.choices(["x", "a"], missing=missing)
        assert listed(found) == [[FULL_BOX], listed(table.choices)[0]]
    else:
        with pytest.raises(MissingBoxError, match="'x'"):
            boxes.choices(["x", "a"], missing=missing)


def test_a_folder_with_a_colon_is_no_address(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = with_choices(["a"])
    assert listed(make_set(Path("keep:3"), table).read("s-0").choices) == listed(table.choices)
