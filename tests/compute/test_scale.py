"""Many processes at one box set, and kills: small versions of the programs in benchmarks/scale."""

from pathlib import Path

import pytest

from benchmarks.scale.kills import killed
from benchmarks.scale.work import SETTINGS, contents, make_source, small_localizer, work
from ccrop_pipeline.base import Ranks
from ccrop_pipeline.boxset import BoxSet, validate
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.images import open_source


@pytest.mark.slow
def test_killed_processes_make_the_box_set_of_one_in_peace(tmp_path: Path) -> None:
    make_source(tmp_path / "tars", shards=14, images=4)
    told = killed(tmp_path, shards=14, processes=2, kills=3, seed=1)
    assert told["kills"] == [3, 3]
    assert told["identical_files"] == 16


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_whoever_comes_last_writes_the_manifest(tmp_path: Path, world_size: int) -> None:
    make_source(tmp_path / "tars", shards=4, images=3)
    source = str(tmp_path / "tars")
    work(source, str(tmp_path / "alone"), 0, 1)
    turns = [work(source, str(tmp_path / "boxes"), r, world_size) for r in range(world_size)]
    # Of nine processes the last five find nothing to do, and everything done.
    first = min(world_size, 4) - 1
    assert turns == [False] * first + [True] * (world_size - first)
    assert contents(tmp_path / "boxes") == contents(tmp_path / "alone")
    assert validate(tmp_path / "boxes") == []


def test_boxes_are_computed_into_an_address(tmp_path: Path) -> None:
    make_source(tmp_path / "tars", shards=3, images=3)
    source, address = open_source(tmp_path / "tars"), "memory://bucket/scale"
    assert compute_boxes(source, small_localizer(), address, **SETTINGS, ranks=Ranks(0, 2)) is None
    box_set = compute_boxes(source, small_localizer(), address, **SETTINGS, ranks=Ranks(1, 2))
    work(str(tmp_path / "tars"), str(tmp_path / "local"), 0, 1)
    assert box_set is not None
    assert box_set.manifest == BoxSet.open(tmp_path / "local").manifest
