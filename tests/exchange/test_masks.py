"""Masks as VOC, DAVIS, COCO and SAM keep them, against loops over their pixels."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays
from PIL import Image

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange import import_boxes, read_masks
from ccrop_pipeline.exchange.masks import segmentation_box
from ccrop_pipeline.images import open_source

_masks = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9))


def by_loop(mask):
    """The half-open box of the pixels that are set, or None."""
    cells = [(x, y) for y, row in enumerate(mask) for x, cell in enumerate(row) if cell]
    if not cells:
        return None
    (left, right), (top, bottom) = ((min(s), max(s) + 1) for s in zip(*cells, strict=True))
    return [left, top, right, bottom]


def runs(mask):
    """Lengths of runs down the columns, the first of background."""
    lengths, value = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != value:
                lengths.append(0)
                value = not value
            lengths[-1] += 1
    return lengths


def rle(mask):
    return {"size": list(mask.shape), "counts": runs(mask)}


@given(_masks)
def test_the_box_of_run_lengths_is_that_of_the_pixels(mask):
    assert segmentation_box(rle(mask)) == by_loop(mask)


# What pycocotools 2.0 makes of masks, and the boxes of those masks.
COMPRESSED = [
    ([3, 5], "421O50", [1, 1, 5, 3]),
    ([20, 30], "81c0000000000L:J0000000000000000000000000004F6000000000000000H", [0, 4, 30, 15]),
    ([2, 3], "6", None),
    ([2, 3], "06", [0, 0, 3, 2]),
    ([480, 640], "Tkm2X6h8000ST[4iImVfM", [200, 7, 501, 300]),
]


@pytest.mark.parametrize(("size", "counts", "box"), COMPRESSED)
def test_compressed_run_lengths(size, counts, box):
    assert segmentation_box({"size": size, "counts": counts}) == box


def test_the_box_of_polygons_has_all_their_corners():
    parts = [[4, 5, 8.5, 5, 6, 9.25], [1, 6, 2, 6, 2, 7]]
    assert segmentation_box(parts) == [1, 5, 8.5, 9.25]


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ({"size": [2, 3], "counts": [1, 2]}, "do not cover 3 by 2"),
        ({"size": [2, 3], "counts": [7, -1]}, "do not cover"),
        ({"size": [2, 3], "counts": "6~"}, "'~' among the counts"),
        ({"size": [2, 3], "counts": "P"}, "cut off"),
        ({"size": [2, 3], "counts": "P" * 20}, "without end"),
        ({"size": [0, 3], "counts": []}, r"the size \[0, 3\]"),
        ([[1, 2, 3]], r"a segmentation is \[\[1, 2, 3\]\]"),
        ([], "a segmentation is"),
    ],
)
def test_what_is_no_segmentation_is_said(segmentation, said):
    with pytest.raises(ValueError, match=said):
        segmentation_box(segmentation)


def palette(path, numbers):
    mask = Image.fromarray(np.uint8(numbers), "P")
    mask.putpalette([colour % 256 for colour in range(768)])
    mask.save(path)


def test_each_number_of_a_palette_is_an_object_and_255_is_void(tmp_path):
    numbers = np.zeros((10, 12), np.uint8)
    numbers[:, 0], numbers[1:4, 2:5], numbers[6:9, 7:11] = 255, 1, 20
    numbers[5, 5] = 1  # objects need not hang together
    palette(tmp_path / "voc.png", numbers)
    boxes, frame, scores = read_masks(tmp_path).read("voc.png")
    assert boxes.tolist() == [by_loop(numbers == 1), by_loop(numbers == 20)]
    assert (frame, scores) == ((12, 10), None)


def test_a_palette_of_255_alone_is_a_mask(tmp_path):
    numbers = np.zeros((10, 12), np.uint8)
    numbers[2:5, 3:6] = 255
    palette(tmp_path / "a.png", numbers)
    assert read_masks(tmp_path).read("a.png").boxes.tolist() == [[3, 2, 6, 5]]


def test_the_first_pixel_is_a_mask_like_any_other(tmp_path):
    numbers = np.zeros((10, 20), np.uint8)
    numbers[0, 0] = 1
    for name in ("images/a.png", "masks/a.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(numbers * 255).save(tmp_path / name)
    masks = read_masks(tmp_path / "masks")
    box_set, counts = import_boxes(open_source(tmp_path / "images"), masks, tmp_path / "boxes")
    assert counts.boxes == 1
    np.testing.assert_allclose(box_set["a.png"].box, [0, 0, 1 / 20, 1 / 10], rtol=1e-6)


def sam(mask, score):
    """A mask as `SamAutomaticMaskGenerator` gives it; its own box ends at the last pixel."""
    left, top, right, bottom = by_loop(mask)
    box = [left, top, right - left - 1, bottom - top - 1]
    return {"segmentation": rle(mask), "bbox": box, "predicted_iou": score, "area": 1}


@pytest.mark.parametrize("form", ["amg.py", "SA-1B"])
def test_masks_of_sam(form, tmp_path):
    masks = np.zeros((2, 6, 9), bool)
    masks[0, 1:3, 2:8] = masks[1, 0:6, 4:5] = True
    data = [sam(masks[0], 0.5), sam(masks[1], 0.75)]
    if form == "SA-1B":
        data = {"image": {"image_id": 1, "file_name": "sa_1.jpg"}, "annotations": data}
    (tmp_path / "x").mkdir()
    (tmp_path / "x/sa_1.json").write_text(json.dumps(data))
    found = read_masks(tmp_path)
    assert list(found.names) == ["x/sa_1"]
    boxes, frame, scores = found.read("x/sa_1")
    assert boxes.tolist() == [by_loop(mask) for mask in masks]
    assert (frame, scores.tolist()) == ((9, 6), [0.5, 0.75])


def test_no_masks_of_sam_give_no_box(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    assert read_masks(tmp_path).read("a").boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"images": [], "annotations": []}, "several images: read it as `coco`"),
        ([{"bbox": [1, 2, 3, 4]}], "'segmentation' is missing"),
        ({"annotations": 3}, "masks are 3"),
        ([{"segmentation": {"size": [1, 1], "counts": [0, 1]}, "score": "1"}], "a score is '1'"),
        (
            [{"segmentation": {"size": [1, n], "counts": [0, n]}} for n in (1, 2)],
            r"sizes \[\(1, 1\), \(2, 1\)\]",
        ),
    ],
)
def test_what_is_no_file_of_masks_is_refused(data, said, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(CcropError, match=rf"a\.json is no file of masks.*{said}"):
        read_masks(tmp_path).read("a")
