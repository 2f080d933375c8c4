"""Annotations joined to images: boxes, statuses, counts, and what is refused."""

import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_images import HEIGHT, WIDTH, boxes_by_key, f32, folder_of, image
from PIL import Image

from ccrop_pipeline.boxset import SourceImage, validate
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange import (
    CENTRE_BOX,
    Annotated,
    Annotations,
    Several,
    fixed_boxes,
    import_boxes,
    read_coco,
    read_csv,
    read_masks,
    read_yolo,
)
from ccrop_pipeline.exchange.importing import in_shares
from ccrop_pipeline.images import image_hash, open_source, pack
from tests.counted import Counted

FULL = [0.0, 0.0, 1.0, 1.0]


def made(frame="shares", **boxes) -> Annotations:
    arrays = {name: np.array(own, np.float64).reshape(-1, 4) for name, own in boxes.items()}
    return Annotations("made", list(arrays), lambda n: Annotated(arrays[n], frame), "ab" * 32)


def problems(folder: Path, source) -> list:
    images = [
        SourceImage(shard, sample.key, image_hash(sample.image))
        for shard in source.shards
        for sample in source.read(shard)
    ]
    return validate(folder, images=images)


def test_annotations_of_images_that_a_file_does_not_list_are_counted(tmp_path):
    source = open_source(folder_of(tmp_path / "images", ["a.jpg", "b.jpg"]))
    content = {
        "images": [{"id": "7", "file_name": "a.jpg"}],  # text here, numbers below
        "annotations": [
            {"image_id": 7, "bbox": [4, 2, 20, 10]},
            {"image_id": 8, "bbox": [0, 0, 4, 4]},
            {"image_id": 9.0, "bbox": "whatever"},
        ],
    }
    file = tmp_path / "boxes.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    box_set, counts = import_boxes(source, read_coco(file), tmp_path / "out")
    assert boxes_by_key(box_set)["a.jpg"][:2] == ("ok", f32(0.1, 0.1, 0.6, 0.6))
    assert (counts.matched, counts.boxes, counts.unlisted) == (1, 1, 2)


def scored(boxes, scores):
    read = lambda _: Annotated(np.array(boxes, np.float64), "shares", scores)  # noqa: E731
    return Annotations("made", ["a"], read, "ab" * 32)


def test_scores_choose_boxes(tmp_path):
    source = open_source(folder_of(tmp_path / "photos", ["a.jpg", "b.jpg"]))
    boxes = [[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.25, 0, 0.5, 0.5], [0.5, 0, 0.75, 1]]
    annotations = scored(boxes, np.array([0.25, 0.5, 0.75, 0.5]))
    for number, (rule, least, chosen) in enumerate(
        [("top:2", None, [2, 1]), ("top:9", 0.5, [2, 1, 3]), ("keep:2", 0.5, [1, 3])]
    ):
        box_set, counts = import_boxes(
            source, annotations, tmp_path / str(number), several=Several(rule), min_score=least
        )
        found = boxes_by_key(box_set)
        assert found["a.jpg"][2] == [boxes[i] for i in chosen]
        assert found["b.jpg"] == ("empty", [0, 0, 1, 1], [[0, 0, 1, 1]])
        assert (counts.boxes, counts.below) == ((4, 0) if least is None else (3, 1))
        rule = box_set.manifest.provenance.rule
        assert ("score at least 0.5" in rule) == (least is not None)


@pytest.mark.parametrize(
    ("scores", "options", "said"),
    [
        (None, {"min_score": 0.5}, "'a' has no score"),
        (None, {"several": Several("top:1")}, "'a' has no score"),
        (np.array([0.5, np.nan]), {"several": Several("top:1")}, "no score.*keep:K"),
        (np.array([0.5, 0.75]), {"min_score": 50}, "score of 50: the highest is 0.75"),
        (np.array([0.5, 0.75]), {"min_score": float("nan")}, "score of nan"),
    ],
)
def test_scores_that_are_missing_or_in_another_unit_are_refused(scores, options, said, tmp_path):
    source = open_source(folder_of(tmp_path / "photos", ["a.jpg"]))
    with pytest.raises(CcropError, match=said):
        import_boxes(source, scored([[0, 0, 1, 1]] * 2, scores), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("frame", ["stored", (40, 20)])
def test_pixels_that_are_shares_are_refused(frame, tmp_path):
    source = open_source(folder_of(tmp_path / "photos", ["a.jpg", "b.jpg"]))
    annotations = made(frame, a=[[0, 0, 0.5, 1]], b=[[0.5, 0.5, 1, 1]])
    with pytest.raises(CcropError, match=r"within the first pixel.*shares"):
        import_boxes(source, annotations, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_image_gets_a_row_and_everything_met_is_counted(tmp_path):
    root = folder_of(tmp_path / "photos", ["x/a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"])
    (root / "broken.jpg").write_bytes(b"no image")
    annotations = made(
        a=[[0.25, 0.25, 0.5, 0.5], [0.5, 0.125, 0.75, 0.25]],
        b=[[-0.5, 0.5, 0.5, 1.25], [0.1, 0.1, 0.1, 0.9]],  # beyond the image, without width
        c=[[1.0, 0, 1.5, 1], [0.1, np.nan, 0.2, 0.3]],  # nothing is left of either
        d=[],
        broken=[[0, 0, 0.5, 0.5]],
        unknown=[[0, 0, 1, 1]],
        f=[[0, 0, 1, 1]],
    )
    source = open_source(root)
    box_set, counts = import_boxes(source, annotations, tmp_path / "out")
    assert boxes_by_key(box_set) == {
        "x/a.jpg": ("ok", [0.25, 0.125, 0.75, 0.5], None),
        "b.jpg": ("ok", [0.0, 0.5, 0.5, 1.0], None),
        "c.jpg": ("empty", FULL, None),
        "d.jpg": ("empty", FULL, None),
        "e.jpg": ("empty", FULL, None),
        "broken.jpg": ("unreadable", FULL, None),
    }
    assert asdict(counts) == {
        "matched": 5, "unannotated": 1, "without_image": 2,
        "boxes": 3, "clipped": 1, "dropped": 3, "misfits": 0, "unlisted": 0, "below": 0,
    }  # fmt: skip
    assert problems(tmp_path / "out", source) == []
    provenance = box_set.manifest.provenance
    assert (provenance.encoder, provenance.localizer) == (None, None)
    assert provenance.rule == f"import made, union, sha256 {'ab' * 32}"
    table = box_set.read(source.shards[0])
    sizes = dict(zip(table.keys, table.sizes.tolist(), strict=True))
    assert sizes["b.jpg"] == [WIDTH, HEIGHT]
    assert sizes["broken.jpg"] == [0, 0]


def test_kept_boxes_are_choices_and_their_union_is_the_box(tmp_path):
    source = open_source(folder_of(tmp_path / "photos", ["a.jpg", "b.jpg"]))
    small, large, middle = [0, 0, 0.25, 0.25], [0.25, 0.25, 1, 1], [0, 0, 0.5, 0.5]
    annotations = made(a=[small, large, middle])
    box_set, _ = import_boxes(source, annotations, tmp_path / "out", several=Several("keep:2"))
    assert boxes_by_key(box_set) == {
        "a.jpg": ("ok", FULL, [large, middle]),
        "b.jpg": ("empty", FULL, [FULL]),
    }
    assert problems(tmp_path / "out", source) == []


def test_pixels_are_of_the_stored_image_also_where_exif_turns_it(tmp_path):
    root = folder_of(tmp_path / "photos", ["a.jpg"])
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "turned.jpg").write_bytes(image(exif=exif))
    source = open_source(root)
    boxes = [[10, 5, 20, 15]]
    stored, _ = import_boxes(source, made("stored", a=boxes, turned=boxes), tmp_path / "stored")
    expected = ("ok", [0.25, 0.25, 0.5, 0.75], None)
    assert boxes_by_key(stored) == {"a.jpg": expected, "turned.jpg": expected}
    ((_, table),) = stored.tables()
    assert dict(zip(table.keys, table.orientation, strict=True)) == {"a.jpg": 1, "turned.jpg": 6}


def test_an_annotation_of_an_image_of_another_shape_is_a_misfit(tmp_path):
    root = folder_of(tmp_path / "photos", ["same.jpg", "half.jpg", "turned.jpg"], half=(20, 10))
    images = [
        {"id": 1, "file_name": "same.jpg", "width": WIDTH, "height": HEIGHT},
        {"id": 2, "file_name": "half.jpg", "width": WIDTH, "height": HEIGHT},
        {"id": 3, "file_name": "turned.jpg", "width": HEIGHT, "height": WIDTH},
    ]
    annotations = [{"image_id": i, "bbox": [10, 5, 10, 10]} for i in (1, 2, 3)]
    (tmp_path / "i.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    box_set, counts = import_boxes(
        open_source(root), read_coco(tmp_path / "i.json"), tmp_path / "out"
    )
    found = boxes_by_key(box_set)
    assert found["same.jpg"] == found["half.jpg"] == ("ok", [0.25, 0.25, 0.5, 0.75], None)
    assert found["turned.jpg"] == ("empty", FULL, None)
    assert (counts.misfits, counts.matched, counts.boxes) == (1, 3, 2)


@given(st.integers(16, 4000), st.integers(16, 4000), st.floats(0.1, 3))
def test_a_resized_image_keeps_its_shape_and_a_turned_one_does_not(width, height, scale):
    annotated = Annotated(np.array([[0, 0, width / 2, height]]), (width, height))
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    shares = in_shares(annotated, w, h)
    if (w, h) != (height, width) or width == height:
        assert shares.tolist() == [[0, 0, 0.5, 1]]
    if width != height:
        assert in_shares(annotated, height, width) is None


@given(*[st.integers(16, 400)] * 3, st.integers(-4, 4))
@example(100, 50, 53, -1)  # to 53 x 25: no factor is close enough to both 0.53 and 0.5
@example(100, 50, 52, -1)
def test_a_resized_image_is_one_whose_sides_one_factor_explains(width, height, w, off):
    """Each side is off by less than a pixel, which leaves an open interval of factors."""
    h = max(1, round(w * height / width) + off)
    annotated = Annotated(np.array([[0, 0, width / 2, height]]), (width, height))
    low, high = (
        [Fraction(stored + off, side) for stored, side in ((w, width), (h, height))]
        for off in (-1, 1)
    )
    explained = max(low) < min(high) and ((w, h) != (height, width) or w == h)
    assert (in_shares(annotated, w, h) is not None) == explained


@pytest.mark.slow
def test_what_rounding_leads_out_of_an_image_was_not_cut_off(tmp_path):
    """Labels of YOLO have six decimals; half of the last one of centre and size is .75e-6."""
    root = folder_of(tmp_path / "photos", [f"{number}.jpg" for number in range(500)])
    (tmp_path / "labels").mkdir()
    for number in range(500):
        x, y = (number * 7919 % 997 + 1) / 1000, (number * 104729 % 991 + 1) / 993
        # Of the left and the top edge, or of the right and the lower one.
        centre = (x / 2, y / 2) if number % 2 else (1 - x / 2, 1 - y / 2)
        label = f"0 {centre[0]:.6f} {centre[1]:.6f} {x:.6f} {y:.6f}\n"
        (tmp_path / f"labels/{number}.txt").write_text(label)
    labels, source = read_yolo(tmp_path / "labels"), open_source(root)
    edges = np.concatenate([labels.read(name).boxes for name in labels.names])
    assert ((edges < 0) | (edges > 1)).any()
    _, counts = import_boxes(source, labels, tmp_path / "out")
    assert (counts.boxes, counts.clipped) == (500, 0)


@pytest.mark.parametrize("box", [[-2e-5, 0, 1, 1], [0, 0, 1, 1 + 2e-5]])
def test_what_reaches_further_out_of_an_image_was(box, tmp_path):
    """A pixel of an image 50,000 px wide."""
    source = open_source(folder_of(tmp_path / "photos", ["a.jpg"]))
    _, counts = import_boxes(source, made(a=[box]), tmp_path / "out")
    assert (counts.boxes, counts.clipped) == (1, 1)


def test_a_mask_of_another_size_counts_by_shares(tmp_path):
    root = folder_of(tmp_path / "photos", ["a.jpg"])
    (tmp_path / "masks").mkdir()
    mask = Image.new("L", (20, 10))
    mask.paste(7, (5, 0, 10, 5))
    mask.save(tmp_path / "masks/a.png")
    masks = read_masks(tmp_path / "masks")
    box_set, _ = import_boxes(open_source(root), masks, tmp_path / "out")
    assert boxes_by_key(box_set) == {"a.jpg": ("ok", [0.25, 0.0, 0.5, 0.5], None)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_a_stopped_import_goes_on_and_counts_all(tmp_path):
    root = folder_of(tmp_path / "photos", [f"{i}.jpg" for i in range(9)])
    pack(open_source(root), tmp_path / "tars", max_images=3)
    source = open_source(tmp_path / "tars")
    annotations = made(**{f"{i}": [[0, 0, 1.5, (i + 1) / 10]] for i in range(8)})
    out = tmp_path / "out"
    _, whole = import_boxes(source, annotations, out)
    before = contents(out)
    (out / "manifest.json").unlink()
    next(out.glob("data/*1.parquet")).unlink()
    counted = Counted()
    _, again = import_boxes(source, annotations, out, observer=counted)
    assert contents(out) == before
    assert again == whole
    assert whole.clipped == 8
    assert sum(counted.done) == 3


def test_other_boxes_are_never_overwritten(tmp_path):
    source = open_source(folder_of(tmp_path / "photos", ["a.jpg"]))
    out = tmp_path / "out"
    import_boxes(source, made(a=[[0, 0, 0.5, 0.5]]), out)
    before = contents(out)
    for several in ("largest", "keep:1"):
        with pytest.raises(CcropError, match="choose another folder"):
            import_boxes(source, made(a=[[0, 0, 0.5, 0.5]]), out, several=Several(several))
    with pytest.raises(CcropError, match="choose another folder"):
        fixed_boxes(source, out, "centre")
    assert contents(out) == before


def test_where_any_shard_is_of_other_boxes_none_is_written(tmp_path):
    pack(
        open_source(folder_of(tmp_path / "photos", ["a.jpg", "b.jpg"])),
        tmp_path / "t",
        max_images=1,
    )
    source = open_source(tmp_path / "t")
    out = tmp_path / "out"
    fixed_boxes(source, out, "full")
    (out / "manifest.json").unlink()
    (out / f"data/{source.shards[0]}.parquet").unlink()
    before = contents(out)
    with pytest.raises(CcropError, match="choose another folder"):
        fixed_boxes(source, out, "centre")
    assert contents(out) == before


def test_annotations_of_other_images_write_nothing(tmp_path):
    source = open_source(folder_of(tmp_path / "photos", ["a.jpg"]))
    with pytest.raises(CcropError, match="none of the 1 annotated"):
        import_boxes(source, made(b=[[0, 0, 1, 1]]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_read_in_order_is_joined_as_well(tmp_path):
    root = folder_of(tmp_path / "photos", ["a.jpg", "b.jpg"])
    pack(open_source(root), tmp_path / "tars")
    (path,) = (tmp_path / "tars").glob("*.tar")
    source = open_source(f"pipe:cat {path}")
    assert not source.random_access
    (tmp_path / "b.csv").write_text("key,x_min,y_min,x_max,y_max\nb.jpg,0,0,0.3,0.3\n")
    annotations = read_csv(tmp_path / "b.csv", pixels=False)
    box_set, counts = import_boxes(source, annotations, tmp_path / "out")
    expected = {"a": ("empty", FULL, None), "b": ("ok", f32(0, 0, 0.3, 0.3), None)}
    assert boxes_by_key(box_set) == expected
    assert (counts.matched, counts.unannotated) == (1, 1)


@pytest.mark.parametrize(("name", "box"), [("centre", [0.25, 0.25, 0.75, 0.75]), ("full", FULL)])
def test_fixed_boxes_are_the_same_for_all(name, box, tmp_path):
    root = folder_of(tmp_path / "photos", ["a.jpg", "b.jpg"])
    (root / "broken.jpg").write_bytes(b"no image")
    source = open_source(root)
    box_set = fixed_boxes(source, tmp_path / "out", name)
    found = boxes_by_key(box_set)
    assert found.pop("broken.jpg") == ("unreadable", FULL, None)
    assert list(found.values()) == [("ok", box, None)] * 2
    assert box_set.manifest.provenance.rule == name
    assert problems(tmp_path / "out", source) == []
    # The authors' words: half of height and width, in the middle.
    low, high = np.array(CENTRE_BOX[:2]), np.array(CENTRE_BOX[2:])
    assert (high - low).tolist() == ((low + high) / 2).tolist() == [0.5, 0.5]
