import numpy as np
import pytest

from ccrop_pipeline.boxset import BoxSet, iou
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.images import Scenes
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer, build_backbone
from ccrop_pipeline.training.metrics import box_metrics


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
