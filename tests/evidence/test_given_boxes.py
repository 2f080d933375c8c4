"""The box sets that arms are given are what their names say."""

import numpy as np
import pytest

from benchmarks.evidence import boxes as made
from benchmarks.evidence.windows import window_statistics
from ccrop_pipeline.boxset import BoxSet, validate
from ccrop_pipeline.crops import UNIFORMS_PER_WINDOW, CropParams, sample_windows
from ccrop_pipeline.images import Scenes, open_source, pack, true_boxes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    pack(Scenes(30, size=32), folder, prefix="train", max_images=20)
    return open_source(folder)


def _rows(folder):
    return {
        key: tuple(box)
        for _, table in BoxSet.open(folder).tables()
        for key, box in zip(table.keys, table.boxes.tolist(), strict=True)
    }


def test_true_boxes_are_the_annotated_ones(scenes, tmp_path):
    rows = _rows(made.exact_boxes(scenes, tmp_path / "true"))
    for shard in scenes.shards:
        for sample in scenes.read(shard):
            assert rows[sample.key] == pytest.approx(true_boxes(sample.annotation)[0], abs=1e-6)
    assert made.statistics(tmp_path / "true", scenes)["iou"] == pytest.approx(1, abs=1e-4)


def test_shuffled_boxes_are_the_same_boxes_at_other_images(scenes, tmp_path):
    true = made.exact_boxes(scenes, tmp_path / "true")
    shuffled = made.shuffled_boxes(scenes, true, tmp_path / "shuffled", seed=0)
    before, after = _rows(true), _rows(shuffled)
    assert sorted(before.values()) == sorted(after.values())
    assert sum(before[key] == after[key] for key in before) < 10
    assert validate(shuffled) == []


def test_statistics_are_those_of_a_slow_loop(scenes, tmp_path):
    found = made.statistics(made.same_boxes(scenes, tmp_path / "centre", "centre"), scenes)
    fits = []
    for shard in scenes.shards:
        for sample in scenes.read(shard):
            left, top, right, bottom = true_boxes(sample.annotation)[0]
            wide = max(0, min(right, 0.75) - max(left, 0.25))
            high = max(0, min(bottom, 0.75) - max(top, 0.25))
            union = 0.25 + (right - left) * (bottom - top) - wide * high
            fits.append(wide * high / union)
    assert found == {
        "area": 0.25,
        "full": 0.0,
        "iou": pytest.approx(np.mean(fits), abs=1e-4),
        "found": pytest.approx(np.mean(np.array(fits) >= 0.5), abs=1e-4),
    }
    full = made.statistics(made.same_boxes(scenes, tmp_path / "full", "full"), scenes)
    assert (full["area"], full["full"]) == (1.0, 1.0)


@pytest.mark.parametrize("rule", ["official", "paper", "overlap"])
def test_windows_of_a_set_are_measured_as_a_slow_loop_measures_them(scenes, tmp_path, rule):
    crop, folder = CropParams(rule), made.exact_boxes(scenes, tmp_path / "true")
    found = window_statistics(folder, scenes, crop)
    rows, samples = _rows(folder), [s for shard in scenes.shards for s in scenes.read(shard)]
    draws = [np.random.default_rng(seed).random((10 * 30, UNIFORMS_PER_WINDOW)) for seed in (0, 1)]
    overlaps, shown = [], []
    for at in range(10 * 30):
        box = np.float32([rows[samples[at % 30].key]])
        masks = np.zeros((2, 32, 32), bool)
        for mask, uniforms in zip(masks, draws, strict=True):
            ((top, left, height, width),) = sample_windows(
                box, np.array([[32, 32]]), uniforms[[at]], crop
            )
            mask[top : top + height, left : left + width] = True
        inside = np.zeros((32, 32), bool)
        left, top, right, bottom = np.round(32 * box[0]).astype(int)
        inside[top:bottom, left:right] = True
        overlaps.append((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())
        shown.append((masks[0] & inside).sum() / inside.sum())
    assert found["pair_iou"] == pytest.approx(np.mean(overlaps), abs=1e-4)
    assert found["object"] == pytest.approx(np.mean(shown), abs=1e-4)
    assert found["missed"] == pytest.approx(np.mean(np.array(shown) < 0.25), abs=1e-4)


def test_random_crops_are_those_of_the_whole_image_at_alpha_one(scenes, tmp_path):
    full = made.same_boxes(scenes, tmp_path / "full", "full")
    whole = window_statistics(full, scenes, CropParams("overlap", 1.0))
    assert window_statistics(None, scenes, CropParams("official", 0.1)) == whole
