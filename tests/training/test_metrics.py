import json

import numpy as np
import pytest

from ccrop_pipeline.boxset import BoxSet, iou
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.images import Scenes
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer, build_backbone
from ccrop_pipeline.training import Metrics
from ccrop_pipeline.training.metrics import box_metrics


def test_tensorboard_has_the_numbers_of_the_lines_and_forgets_later_epochs(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Metrics(tmp_path, tensorboard=True)
    first.truncate_after(0)
    for epoch in (1, 2, 3):
        first.add({"stage": "train", "epoch": epoch, "loss": epoch / 4, "boxes": None})
    again = Metrics(tmp_path, tensorboard=True)
    again.truncate_after(2)
    again.add({"stage": "train", "epoch": 3, "loss": 5.0, "boxes": "boxes/x"})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    read = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert read == [(1, 0.25), (2, 0.5), (3, 5.0)]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [0.25, 0.5, 5.0]


def test_box_metrics_agree_with_a_loop_over_images(tmp_path):
    source = Scenes(30, size=32)
    encoder = Encoder(build_backbone("small"), "layer4", 32, name="small")
    localizer = Localizer(encoder, "sum", BoxRule(0.6))
    boxes = compute_boxes(source, localizer, tmp_path / "boxes")
    centre = fixed_boxes(source, tmp_path / "centre", "centre")
    found = box_metrics(boxes, centre)
    (table,) = [table for _, table in boxes.tables()]
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in table.boxes.tolist()]
    overlaps = [iou(b, np.array([[0.25, 0.25, 0.75, 0.75]]))[0] for b in table.boxes]
    assert found["mean_area"] == pytest.approx(sum(areas) / 30, abs=1e-4)
    assert found["share_full"] == pytest.approx(sum(area == 1 for area in areas) / 30, abs=1e-4)
    assert found["share_empty"] == pytest.approx((table.status == 1).mean(), abs=1e-4)
    assert found["iou_with_previous"] == pytest.approx(sum(overlaps) / 30, abs=1e-4)
    assert 0 < found["iou_with_previous"] < 1
    assert box_metrics(boxes, None)["iou_with_previous"] is None
    assert box_metrics(centre, BoxSet.open(tmp_path / "centre"))["iou_with_previous"] == 1
