import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrop_pipeline.boxset import iou
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Sample, Scenes, open_source, pack
from ccrop_pipeline.report import box_quality, contact_sheet
from tests.given_rows import box_set_of, rows_of

cells = st.tuples(*[st.integers(0, 9)] * 2).map(sorted).map(lambda e: (e[0], e[1] + 1))
grid_boxes = st.tuples(cells, cells).map(lambda b: np.array([b[0][0], b[1][0], b[0][1], b[1][1]]))


@given(grid_boxes, grid_boxes)
def test_iou_counts_cells(a, b):
    def covered(box):
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    expected = len(covered(a) & covered(b)) / len(covered(a) | covered(b))
    assert iou(a / 10, b[None] / 10)[0] == pytest.approx(expected)


def boxes_of(source, folder, boxes):
    keys = [sample.key for sample in source.read(source.shards[0])]
    return box_set_of(folder, rows_of(keys, boxes), names=source.shards)


def annotation(source, *boxes):
    """Boxes as [h0, w0, h1, w1]."""
    return json.dumps({"boxes": boxes, "source": source}).encode()


def test_quality_by_source_takes_the_best_true_box(tmp_path):
    image = next(Scenes(1, size=48).read("train-000000")).image
    samples = [
        Sample("a", image, None, annotation("x", [0, 0, 0.1, 0.1], [0.2, 0.4, 0.6, 0.8])),
        Sample("b", image, None, annotation("x", [0, 0, 1, 1])),
        Sample("c", image, None, annotation("y", [0.15, 0.15, 0.85, 0.85])),
        Sample("d", image, None, None),
    ]
    pack(samples, tmp_path / "tars")
    source = open_source(tmp_path / "tars")
    boxes = [[0.4, 0.2, 0.8, 0.6], [0, 0, 0.4, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    quality = box_quality(boxes_of(source, tmp_path / "boxes", boxes), source)
    assert list(quality) == ["x", "y"]
    assert (quality["x"].images, quality["y"].images) == (2, 1)
    assert quality["x"].found == 0.5
    assert quality["x"].mean_iou == pytest.approx(0.7)
    assert (quality["x"].whole_image, quality["x"].centre) == (0.5, 0.0)
    # The whole image over the central 70 %: 0.49, short of a half.
    assert (quality["y"].found, quality["y"].whole_image, quality["y"].centre) == (0, 0, 1)


def test_a_source_without_true_boxes_is_refused(tmp_path):
    image = next(Scenes(1, size=48).read("train-000000")).image
    pack([Sample("a", image, 0)], tmp_path / "tars")
    source = open_source(tmp_path / "tars")
    box_set = boxes_of(source, tmp_path / "boxes", [[0, 0, 1, 1]])
    with pytest.raises(CcropError, match="true boxes"):
        box_quality(box_set, source)


def test_contact_sheet_shows_boxes_where_they_are(tmp_path):
    samples = list(Scenes(5, size=48).read("train-000000"))
    samples[0] = samples[0]._replace(annotation=annotation("x", [0.5, 0.5, 1, 1]))
    samples.insert(1, Sample("broken", b"no image", None))
    pack(samples, tmp_path / "tars")
    source = open_source(tmp_path / "tars")
    boxes = [[0, 0, 0.25, 0.5]] + [[0, 0, 1, 1]] * 5
    box_set = boxes_of(source, tmp_path / "boxes", boxes)
    sheet = contact_sheet(box_set, source, CropParams(), count=4, across=2)
    first = np.asarray(sheet)[44 : 44 + 144, 8 : 8 + 144].astype(int)
    red = (np.abs(first - (255, 70, 50)).sum(2) < 12).nonzero()
    green = (np.abs(first - (60, 220, 90)).sum(2) < 12).nonzero()
    assert (red[0].max(), red[1].max()) == (71, 35)
    assert (green[0].min(), green[1].min()) == (72, 72)
    # Two rows of two images, although one of the first four cannot be read.
    assert sheet.size[1] == 44 + 2 * 168
    assert (np.asarray(sheet)[44 + 168 : -24, -8 - 144 : -8] != 255).any()
