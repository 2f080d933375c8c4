"""The statistics of a box set, against plain loops, and that they cost no second reading."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_boxset import statistics
from table_strategies import PROVENANCE, make_table, tables

from ccrop_pipeline.boxset import (
    STATUSES,
    BoxSet,
    BoxStatistics,
    BoxTable,
    validate,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.boxset.statistics import BoxTally


def rows_of(table: BoxTable) -> list[dict]:
    names = ("x_min", "y_min", "x_max", "y_max")
    rows = (dict(zip(names, box, strict=True)) for box in table.boxes.tolist())
    return [row | {"status": STATUSES[s]} for row, s in zip(rows, table.status, strict=True)]


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(tables(), max_size=3))
def test_statistics_agree_with_loops(parts: list[BoxTable]) -> None:
    tally = BoxTally()
    for part in parts:
        tally.add(part)
    found, expected = tally.statistics(), statistics([r for part in parts for r in rows_of(part)])
    assert found.counts == expected["counts"]
    assert list(found.area_histogram) == expected["area_histogram"]
    assert (found.nearly_full, found.full) == (expected["nearly_full"], expected["full"])
    mean = expected["mean_area"]
    assert found.mean_area == (None if mean is None else pytest.approx(mean, rel=1e-12))
    assert found.share(found.full) == found.full / max(1, sum(found.counts.values()))


def areas(*shares: float) -> BoxTable:
    table = make_table([f"k{i}" for i in range(len(shares))], heatmaps=False)
    table.boxes[:] = [[0, 0, share, 1] for share in shares]
    return table


def test_boundaries_belong_to_the_part_below() -> None:
    tally = BoxTally()
    tally.add(areas(0.0625, 0.5, 0.5000001, 0.75, 0.9, 0.90000004, 1))
    found = tally.statistics()
    # In float32, 0.9 is less than nine tenths, and the next number is more.
    assert found.area_histogram == (1, 0, 0, 0, 1, 1, 0, 1, 1, 2)
    assert (found.nearly_full, found.full) == (2, 1)


def test_a_box_with_a_tiny_edge_is_not_full_though_its_area_is_1() -> None:
    table = areas(1.0)
    table.boxes[0, 0] = 1e-40
    tally = BoxTally()
    tally.add(table)
    assert (tally.statistics().mean_area, tally.statistics().full) == (1.0, 0)


def test_the_mean_area_does_not_depend_on_the_order_of_rows() -> None:
    rng, sums = np.random.default_rng(0), set()
    table = make_table([f"k{i}" for i in range(5000)], heatmaps=False)
    for _ in range(5):
        table.boxes = table.boxes[rng.permutation(5000)]
        tally = BoxTally()
        tally.add(table)
        sums.add(tally.statistics().mean_area)
    assert len(sums) == 1


def test_statistics_are_in_the_manifest_and_survive_reading() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, keys in enumerate((["a", "b"], [], ["c"])):
            write_shard(folder, f"s-{number}", make_table(keys, number), PROVENANCE)
        written = write_manifest(folder, [f"s-{number}" for number in range(3)], PROVENANCE)
        stored = json.loads((folder / "manifest.json").read_text())["statistics"]
        tables_ = [table for _, table in BoxSet.open(folder).tables()]
        expected = statistics([row for table in tables_ for row in rows_of(table)])
        expected["mean_area"] = pytest.approx(expected["mean_area"])
        assert stored == expected
        assert BoxSet.open(folder).manifest == written
        assert validate(folder) == []


def test_statistics_need_a_count_of_every_status() -> None:
    with pytest.raises(ValueError, match="no empty and no unreadable"):
        BoxStatistics({"ok": 3}, 0.5, (0,) * 10, 0, 0)
