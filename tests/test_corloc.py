"""What `benchmarks/corloc.py` measures, against pixels that are counted one by one."""

import io
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.corloc import Voc, figures, judged, main, matched, read_annotation
from ccrop_pipeline.boxset import (
    BoxSet,
)
from ccrop_pipeline.boxset.boxes import Choices
from ccrop_pipeline.exchange.fixed import fixed_boxes
from ccrop_pipeline.images import Sample, open_source, pack
from tests.given_rows import box_set_of, rows_of

SIZE = (40, 30)
OBJECT = (
    "<object><name>cat</name><difficult>{difficult}</difficult><truncated>{truncated}</truncated>"
    "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)
# (xmin, ymin, xmax, ymax) in pixels from 1, both inside; difficult; truncated
OBJECTS = {
    "000001": [((1, 1, 40, 30), 0, 0)],
    "000002": [((5, 6, 14, 25), 0, 0), ((21, 3, 40, 12), 1, 0)],
    "000003": [((11, 11, 20, 20), 0, 1)],
    "000004": [((31, 21, 40, 30), 0, 0), ((2, 2, 11, 11), 0, 0), ((4, 2, 13, 11), 0, 0)],
}
# x_min, y_min, x_max, y_max in pixels, half-open
FOUND = {
    "000001": [(0, 0, 20, 30)],
    "000002": [(20, 0, 40, 13), (4, 5, 14, 16)],
    "000003": [(10, 10, 20, 20)],
    "000004": [(0, 0, 5, 5), (1, 1, 12, 11), (29, 19, 40, 30)],
}


def annotation(objects, size=SIZE) -> str:
    inside = "".join(OBJECT.format(*b, difficult=d, truncated=t) for b, d, t in objects)
    width, height = size
    head = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{head}{inside}</annotation>"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for key, objects in OBJECTS.items():
        pixels = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{key}.jpg")
        (folder / "Annotations" / f"{key}.xml").write_text(annotation(objects))
    (folder / "JPEGImages" / "000009.jpg").write_bytes(b"an image of the test set")
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(OBJECTS) + "\n")
    return folder


def pixels_of(box) -> set[tuple[int, int]]:
    return set(itertools.product(range(box[0], box[2]), range(box[1], box[3])))


def fits(box, truth) -> bool:
    """IoU of at least a half of a half-open box and one of VOC, both as sets of pixels."""
    x_min, y_min, x_max, y_max = truth
    ours, theirs = pixels_of(box), pixels_of((x_min - 1, y_min - 1, x_max, y_max))
    return 2 * len(ours & theirs) >= len(ours | theirs)


def most_found(boxes, truths) -> int:
    """Try every way to give each true box one of the boxes, or none."""
    options = [*range(len(boxes)), *[None] * len(truths)]
    return max(
        sum(b is not None and fits(boxes[b], t) for b, t in zip(way, truths, strict=True))
        for way in itertools.permutations(options, len(truths))
    )


def written(folder: Path, source: Voc) -> BoxSet:
    rows = [np.float32(FOUND[key]) / np.float32(SIZE * 2) for key in source.keys]
    table = rows_of(source.keys, Choices.of(rows), sizes=SIZE)
    return box_set_of(folder, table, names=["trainval"])


@pytest.mark.parametrize("hard", [True, False])
def test_corloc_and_found_are_those_counted_in_pixels(voc: Path, tmp_path: Path, hard: bool):
    source = Voc(voc, "trainval")
    result = judged(source, written(tmp_path / "boxes", source), hard=hard)["all"]
    truths = {
        key: [box for box, difficult, truncated in objects if hard or not difficult + truncated]
        for key, objects in OBJECTS.items()
    }
    kept = [key for key in OBJECTS if truths[key]]
    first = [any(fits(FOUND[key][0], truth) for truth in truths[key]) for key in kept]
    whole = [any(fits((0, 0, *SIZE), truth) for truth in truths[key]) for key in kept]
    found = sum(most_found(FOUND[key], truths[key]) for key in kept)
    assert len(kept) == (4 if hard else 3)
    assert result["images"] == len(kept)
    assert result["corloc"] == sum(first) / len(kept)
    assert result["corloc_whole_image"] == sum(whole) / len(kept)
    assert result["objects"] == sum(len(truths[key]) for key in kept)
    assert result["found"] == found / result["objects"]
    # So that every line above has something to tell apart.
    assert 0 < sum(first) < len(kept)
    assert 0 < found < result["objects"]


def test_a_box_counts_for_one_object_in_the_way_that_finds_the_most():
    rng = np.random.default_rng(0)
    several = 0
    for _ in range(60):
        corners = rng.integers(0, 6, (7, 2))
        pixels = np.concatenate([corners, corners + rng.integers(3, 7, (7, 2))], axis=1)
        boxes, truths = pixels[:3].tolist(), pixels[3:].tolist()
        expected = most_found(boxes, [(x + 1, y + 1, w, h) for x, y, w, h in truths])
        # Sixteenths are exact, so that an IoU of just one half is one.
        assert matched(pixels[:3] / 16, pixels[3:] / 16) == expected
        several += expected > 1
    assert several > 5
    twins = np.array([[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.5]])
    assert figures([twins[:1]], [twins])["found"] == 0.5


def test_pixels_of_voc_are_counted_from_1_and_both_inside(voc: Path):
    size, boxes = read_annotation(voc / "Annotations" / "000002.xml")
    assert size == SIZE
    expected = [[4 / 40, 5 / 30, 14 / 40, 25 / 30], [20 / 40, 2 / 30, 40 / 40, 12 / 30]]
    np.testing.assert_allclose(boxes, expected, rtol=1e-12)
    assert read_annotation(voc / "Annotations" / "000003.xml", hard=False)[1].shape == (0, 4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]><a>&c;</a>', "document type 'a'"),
        ('<!DOCTYPE a SYSTEM "http://nowhere.example/a.dtd"><a/>', "document type 'a'"),
        (f"<annotation>{' ' * 1_000_000}</annotation>", "more than 1,000,000 bytes"),
        ("<annotation><size><width>40</width></size></annotation>", "no size/height"),
        ("<annotation>", "no element found"),
        (annotation([((0, 1, 5, 5), 0, 0)]), "not inside"),
        (annotation([((3, 1, 41, 5), 0, 0)]), "not inside"),
        (annotation([((6, 1, 5, 5), 0, 0)]), "not inside"),
    ],
)
def test_what_is_no_annotation_is_refused(tmp_path: Path, content: str, reason: str):
    path = tmp_path / "a.xml"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason):
        read_annotation(path)


def test_boxes_of_images_of_another_size_are_refused(voc: Path, tmp_path: Path):
    source = Voc(voc, "trainval")
    (voc / "Annotations" / "000003.xml").write_text(annotation([((1, 1, 9, 9), 0, 0)], (30, 40)))
    with pytest.raises(ValueError, match="000003 has 40 x 30 pixels"):
        judged(source, written(tmp_path / "boxes", source), hard=True)


def test_one_command_computes_and_measures(voc: Path, tmp_path: Path, monkeypatch, capsys):
    model = tmp_path / "model.py"
    model.write_text(
        "import torch\n"
        "from ccrop_pipeline.localize import Encoder, build_backbone\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    return Encoder(build_backbone('small'), 'layer4', 64)\n"
    )
    out = tmp_path / "boxes"
    arguments = ["corloc", str(voc), str(out), "--model", f"{model}:build", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    printed = json.loads(capsys.readouterr().out)
    assert printed["map"] == "lost"
    assert printed["images"] == 4
    rows = {row.key: row.box for row in BoxSet.open(out).read("trainval")}
    assert [*rows] == [*OBJECTS]
    inside = {
        key: [round(edge * side) for edge, side in zip(box, SIZE * 2, strict=True)]
        for key, box in rows.items()
    }
    expected = [any(fits(inside[k], t) for t, _, _ in OBJECTS[k]) for k in OBJECTS]
    assert printed["corloc"] == sum(expected) / 4


def test_any_source_with_true_boxes_is_measured_by_data_set(tmp_path: Path):
    truths = {"a": [(1, 1, 20, 30)], "b": [(1, 1, 40, 14), (1, 16, 40, 30)], "c": [(1, 1, 19, 30)]}
    samples = []
    for key, boxes in truths.items():
        image = io.BytesIO()
        Image.new("RGB", SIZE).save(image, "PNG")
        edges = [[(t - 1) / 30, (x - 1) / 40, b / 30, r / 40] for x, t, r, b in boxes]
        name = "first" if key < "c" else "second"
        beside = json.dumps({"boxes": edges, "source": name}).encode()
        samples.append(Sample(key, image.getvalue(), None, beside))
    pack([*samples, samples[0]._replace(key="none", annotation=None)], tmp_path / "tars")
    source = open_source(tmp_path / "tars")
    result = judged(source, fixed_boxes(source, tmp_path / "full", "full"), hard=True)
    fit = {key: [fits((0, 0, *SIZE), truth) for truth in truths[key]] for key in truths}
    assert fit == {"a": [True], "b": [False, True], "c": [False]}
    first, second = result["first"], result["second"]
    assert (first["images"], first["corloc"], first["found"]) == (2, 1.0, 2 / 3)
    assert (second["images"], second["corloc"], second["found"]) == (1, 0.0, 0.0)
