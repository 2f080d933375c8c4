"""Studies of small objects have all of those and no others."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.evidence.small_objects import with_small_objects
from ccrop_pipeline.images import Scenes, true_boxes


def _samples(source):
    return [sample for shard in source.shards for sample in source.read(shard)]


def test_images_whose_true_box_is_small_are_kept_as_they_are(tmp_path):
    source = Scenes(60, size=32)
    areas = {}
    for sample in _samples(source):
        left, top, right, bottom = true_boxes(sample.annotation)[0]
        areas[sample.key] = (right - left) * (bottom - top)
    limit = sorted(areas.values())[30]
    small = with_small_objects(source, tmp_path / "small/train.tar", limit)
    expected = [sample for sample in _samples(source) if areas[sample.key] < limit]
    assert 0 < len(expected) <= 30
    assert _samples(small) == expected
    written = (tmp_path / "small/train.tar").stat().st_mtime_ns
    with_small_objects(source, tmp_path / "small/train.tar", limit)
    assert (tmp_path / "small/train.tar").stat().st_mtime_ns == written
