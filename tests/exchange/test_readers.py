"""Files of other tools, written by hand as those tools write them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_convert, masks_to_boxes

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange import (
    read_coco,
    read_csv,
    read_cvat,
    read_fiftyone,
    read_label_studio,
    read_masks,
    read_npz,
    read_open_images,
    read_yolo,
)
from ccrop_pipeline.exchange.importing import in_shares


def read(annotations, name):
    boxes, frame, _ = annotations.read(name)
    assert boxes.dtype == np.float64
    return boxes.tolist(), frame


def coco(path: Path, images, annotations) -> Path:
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_coco_boxes_are_left_top_width_height_in_pixels(tmp_path):
    images = [
        {"id": 7, "file_name": "a/1.jpg", "width": 40, "height": 20, "license": 1},
        {"id": 3, "file_name": "2.jpg"},
        {"id": 9, "file_name": "3.jpg", "width": 5, "height": 5},
    ]
    bboxes = [[4, 5, 8.5, 10], [1, 2, 3, 4], [0, 0, 1, 1]]
    annotations = [
        {"id": n, "image_id": image, "bbox": box, "iscrowd": crowd, "segmentation": [[1, 2]]}
        for n, (image, box, crowd) in enumerate(
            [(7, bboxes[0], 0), (3, bboxes[2], 0), (7, bboxes[1], 0), (9, bboxes[0], 1)]
        )
    ]
    found = read_coco(coco(tmp_path / "i.json", images, annotations))
    assert (found.kind, list(found.names)) == ("coco", ["a/1.jpg", "2.jpg", "3.jpg"])
    expected = box_convert(torch.tensor(bboxes, dtype=torch.float64), "xywh", "xyxy").tolist()
    assert read(found, "a/1.jpg") == (expected[:2], (40, 20))
    assert read(found, "2.jpg") == (expected[2:], "stored")
    assert read(found, "3.jpg") == ([], (5, 5))  # a crowd is no object


IMAGE = {"id": 1, "file_name": "a.jpg"}


@pytest.mark.parametrize(
    ("images", "annotations", "said"),
    [
        ([IMAGE], [{"image_id": 2, "bbox": [1, 2, 3, 4]}], "none of its 1 annotations"),
        ([IMAGE], [{"image_id": 1, "bbox": [1, 2, 3]}], r"a bbox is \[1, 2, 3\]"),
        ([IMAGE], [{"image_id": 1, "segmentation": []}], "'bbox' is missing"),
        ([{"id": 1}], [], "file_name"),
        ([IMAGE, {"id": 2, "file_name": "a.jpg"}], [], "2 images only 1 different names"),
        ({"a": 1}, [], "no COCO detection file"),
    ],
)
def test_what_is_no_coco_is_refused(images, annotations, said, tmp_path):
    with pytest.raises(CcropError, match=said):
        read_coco(coco(tmp_path / "i.json", images, annotations))


LISTING = [
    {"id": 139, "file_name": "000000000139.jpg", "width": 40, "height": 20},
    {"id": 285, "file_name": "000000000285.jpg", "width": 10, "height": 10},
]
RESULTS = [
    {"image_id": 285, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.25},
    {"image_id": 139, "category_id": 1, "bbox": [4, 5, 8.5, 10], "score": 0.9},
    {"image_id": 139, "category_id": 1, "bbox": [0, 0, 2, 2]},
]


def results(folder, content=RESULTS):
    (folder / "results.json").write_text(json.dumps(content))
    return folder / "results.json"


def test_results_of_a_detector_with_the_list_of_their_images(tmp_path):
    listing = coco(tmp_path / "images.json", LISTING, [])
    found = read_coco(results(tmp_path), images=listing)
    assert list(found.names) == [image["file_name"] for image in LISTING]
    boxes, frame, scores = found.read("000000000139.jpg")
    assert (boxes.tolist(), frame) == ([[4, 5, 12.5, 15], [0, 0, 2, 2]], (40, 20))
    np.testing.assert_equal(scores, [0.9, np.nan])
    # What either file says decides.
    digests = {found.digest, read_coco(results(tmp_path)).digest}
    coco(listing, LISTING[::-1], [])
    digests.add(read_coco(results(tmp_path), images=listing).digest)
    assert len(digests) == 3


def test_ids_of_results_without_a_list_are_names(tmp_path):
    content = [{"image_id": "n01/a.JPEG", "bbox": [1, 2, 3, 4], "score": 1}, RESULTS[0]]
    found = read_coco(results(tmp_path, content))
    assert list(found.names) == ["n01/a.JPEG", "285"]
    assert read(found, "285") == ([[1, 2, 4, 6]], "stored")
    assert "set `images` to the COCO JSON that lists the images" in found.advice


def test_a_box_that_is_missing_is_that_of_the_segmentation(tmp_path):
    rle = {"size": [20, 40], "counts": [105, 3, 692]}  # column 5, rows 5 to 7
    annotations = [
        {"image_id": 139, "segmentation": rle},
        {"image_id": 139, "segmentation": [[1, 2, 3, 2, 3, 7.5]]},
        {"image_id": 139, "segmentation": {"size": [20, 40], "counts": [800]}},  # of nothing
    ]
    found = read_coco(coco(tmp_path / "i.json", LISTING, annotations))
    assert read(found, "000000000139.jpg") == ([[5, 5, 6, 8], [1, 2, 3, 7.5]], (40, 20))


@pytest.mark.parametrize("listed", [True, False])
def test_the_size_of_a_mask_corrects_that_of_its_image(listed, tmp_path):
    mask = {"size": [20, 40], "counts": [105, 3, 692]}
    content = [{"image_id": "a.jpg", "bbox": [5, 5, 1, 3], "segmentation": mask}]
    swapped = {"id": "a.jpg", "file_name": "a.jpg", "width": 20, "height": 40}
    path = coco(tmp_path / "i.json", [swapped], content) if listed else results(tmp_path, content)
    assert read(read_coco(path), "a.jpg") == ([[5, 5, 6, 8]], (40, 20))


@pytest.mark.parametrize(
    ("content", "listing", "said"),
    [
        (RESULTS, [], "none of its 3 annotations has the id .*images.json lists"),
        (RESULTS, [{"id": 1}], "images.json lists no images .'file_name' is missing"),
        ([{"bbox": [1, 2, 3, 4]}], None, "'image_id' is missing"),
        ([{"image_id": 139, "score": 1}], None, "'bbox' is missing"),
        ([RESULTS[0] | {"score": "high"}], None, "a score is 'high'"),
        ({"annotations": RESULTS}, None, "'images' is missing"),
        ({"images": [], "annotations": []}, LISTING, "leave out `images`"),
        (
            [{"image_id": 139, "segmentation": {"size": [2, 3], "counts": [6]}}],
            LISTING,
            r"a mask of \(3, 2\) px is of an image of \(40, 20\) px",
        ),
    ],
)
def test_results_that_cannot_be_read_are_refused(content, listing, said, tmp_path):
    images = None if listing is None else coco(tmp_path / "images.json", listing, [])
    with pytest.raises(CcropError, match=said):
        read_coco(results(tmp_path, content), images=images)


def test_yolo_boxes_are_centre_and_size_in_shares(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.b.txt").write_text("0 0.5 0.5 0.25 0.5\n\n17 0.1 0.2 0.2 0.4 0.93\n")
    (tmp_path / "none.txt").write_text("")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    found = read_yolo(tmp_path)
    assert list(found.names) == ["none", "train/a.b"]
    centres = torch.tensor([[0.5, 0.5, 0.25, 0.5], [0.1, 0.2, 0.2, 0.4]], dtype=torch.float64)
    expected = box_convert(centres, "cxcywh", "xyxy").numpy()
    boxes, frame, scores = found.read("train/a.b")
    np.testing.assert_allclose(boxes, expected, rtol=0, atol=1e-15)
    assert frame == "shares"
    np.testing.assert_equal(scores, [np.nan, 0.93])
    assert read(found, "none") == ([], "shares")


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.1", "0 0.1 0.1 0.9 0.1 0.9 0.9 0.1", "0 a 1 1 1"])
def test_a_yolo_line_that_is_no_box_is_named(line, tmp_path):
    (tmp_path / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(CcropError, match=r"a\.txt line 2"):
        read_yolo(tmp_path).read("a")


def test_yolo_numbers_that_are_pixels_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("0 20 10 8 8\n")
    with pytest.raises(CcropError, match=r"a\.txt has numbers as large as 24.*[Dd]ivide"):
        read_yolo(tmp_path).read("a")


@pytest.mark.parametrize("reader", [read_yolo, read_masks])
def test_an_empty_folder_is_refused(reader, tmp_path):
    with pytest.raises(CcropError, match="holds no"):
        reader(tmp_path)


def test_csv_has_several_lines_a_key_in_any_order(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text(
        "label,x_max,y_max,filename,x_min,y_min\n"
        "dog,0.5,1,007,0.25,0\ncat,1,1,b,0,0.5\ndog,1,1,007,0.5,0.5\n,,,c,,\n"
    )
    found = read_csv(path, pixels=False)
    assert list(found.names) == ["007", "b", "c"]  # 007 stays text
    assert read(found, "007") == ([[0.25, 0, 0.5, 1], [0.5, 0.5, 1, 1]], "shares")
    assert read(found, "c") == ([], "shares")
    assert (found.kind, read_csv(path, pixels=True).kind) == ("csv", "csv in pixels")


def test_csv_lines_that_are_not_ok_give_no_box(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text("key,x_min,y_min,x_max,y_max,status\na,0,0,1,1,empty\nb,0,0,1,1,ok\n")
    found = read_csv(path, pixels=False)
    assert [len(found.read(name).boxes) for name in ("a", "b")] == [0, 1]


@pytest.mark.parametrize("form", ["csv", "npz"])
def test_pixels_must_be_said(form, tmp_path):
    path = tmp_path / "b"
    if form == "csv":
        path.write_text("key,x_min,y_min,x_max,y_max\na,0,0,1,1\nb,0,5,20,10\n")
    else:
        with path.open("wb") as file:
            np.savez(file, keys=["a", "b"], boxes=[[0, 0, 1, 1], [0, 5, 20, 10]])
    reader = {"csv": read_csv, "npz": read_npz}[form]
    with pytest.raises(CcropError, match=r"as large as 20.*`pixels`"):
        reader(path, pixels=False)
    found = reader(path, pixels=True)
    assert read(found, "b") == ([[0, 5, 20, 10]], "stored")
    assert in_shares(found.read("b"), 40, 20).tolist() == [[0, 0.25, 0.5, 0.5]]


@pytest.mark.parametrize("form", ["csv", "npz"])
@pytest.mark.parametrize(("edge", "refused"), [(1.999, False), (2, True)])
def test_edges_of_two_or_more_are_pixels(form, edge, refused, tmp_path):
    path = tmp_path / f"b.{form}"
    if form == "csv":
        path.write_text(f"key,x_min,y_min,x_max,y_max\na,0,0,1,{edge}\n")
    else:
        np.savez(path, keys=["a"], boxes=[[0, 0, 1, edge]])
    reader = {"csv": read_csv, "npz": read_npz}[form]
    if refused:
        with pytest.raises(CcropError, match="as large as 2,"):
            reader(path, pixels=False)
    else:
        assert read(reader(path, pixels=False), "a") == ([[0, 0, 1, edge]], "shares")


@pytest.mark.parametrize(
    "text", ["", "key,x_min,y_min,x_max\na,0,0,1\n", "x_min,y_min,x_max,y_max\n0,0,1,1\n",
             "key,x_min,y_min,x_max,y_max\na,0,0,1,one\n"]
)  # fmt: skip
def test_what_is_no_table_of_boxes_is_refused(text, tmp_path):
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(CcropError, match=r"b\.csv"):
        read_csv(tmp_path / "b.csv", pixels=False)


def test_points_have_a_box_as_far_as_their_radius(tmp_path):
    path = tmp_path / "gaze.csv"
    path.write_text("image,x,y,radius,score\na,0.5,0.25,0.125,3\na,0.75,0.5,,1\nb,,,,\n")
    found = read_csv(path, radius=0.25)
    boxes, frame, scores = found.read("a")
    assert boxes.tolist() == [[0.375, 0.125, 0.625, 0.375], [0.5, 0.25, 1, 0.75]]
    assert (frame, scores.tolist()) == ("shares", [3, 1])
    assert read(found, "b") == ([], "shares")
    assert (found.kind, read_csv(path, radius=0.5).kind) == (
        "csv of points, 0.25",
        "csv of points, 0.5",
    )


def test_points_in_pixels(tmp_path):
    (tmp_path / "clicks.csv").write_text("key,x,y\na,20,10\na,30,5\n")
    with pytest.raises(CcropError, match=r"as large as 30.*`pixels`"):
        read_csv(tmp_path / "clicks.csv", radius=0.1)
    found = read_csv(tmp_path / "clicks.csv", radius=4, pixels=True)
    assert read(found, "a") == ([[16, 6, 24, 14], [26, 1, 34, 9]], "stored")


@pytest.mark.parametrize(
    ("text", "radius", "said"),
    [
        ("key,x,y\na,0.5,0.5\nb,,\n", None, "1 points without a radius.*`radius`"),
        ("key,x,y,radius\na,0.5,0.5,0\n", None, "the radius 0"),
        ("key,x,y\na,0.5,0.5\n", 20, "as large as 20"),
        ("key,x_min,y_min,x_max,y_max\na,0,0,1,1\n", 0.1, "no points x, y: leave out `radius`"),
        ("key,x_min,y_min,x_max,y_max,x,y\na,0,0,1,1,1,1\n", None, "its columns are"),
    ],
)
def test_points_that_are_not_clear_are_refused(text, radius, said, tmp_path):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(CcropError, match=said):
        read_csv(tmp_path / "p.csv", radius=radius)


def test_npz_of_keys_and_boxes(tmp_path):
    path = tmp_path / "b.npz"
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 1, 1], [0.5, 0, 1, 1]], np.float32)
    np.savez(path, keys=np.array(["a", "b", "a"]), boxes=boxes)
    found = read_npz(path, pixels=False)
    assert read(found, "a") == (boxes[[0, 2]].tolist(), "shares")
    np.savez(path, keys=np.array(["a", "b", "a"]), boxes=boxes, status=["ok", "empty", "ok"])
    assert read(read_npz(path, pixels=False), "b") == ([], "shares")
    np.savez(path, keys=np.array(["a", "b", "a"]), boxes=boxes, scores=[1, 2, 3])
    assert read_npz(path).read("a").scores.tolist() == [1, 3]


def test_npz_of_an_array_a_key(tmp_path):
    path = tmp_path / "b.npz"
    arrays = {"x/a.jpg": np.array([0, 1, 2, 3]), "b": np.array([[0, 0, 4, 4], [1, 1, 2, 2]])}
    np.savez(path, **arrays)
    found = read_npz(path, pixels=True)
    assert read(found, "x/a.jpg") == ([[0, 1, 2, 3]], "stored")
    assert read(found, "b") == (arrays["b"].tolist(), "stored")


@pytest.mark.parametrize(
    "arrays",
    [
        {"keys": np.array(["a"]), "boxes": np.zeros((2, 4))},
        {"keys": np.array([1]), "boxes": np.zeros((1, 4))},
        {"keys": np.array(["a"], object), "boxes": np.zeros((1, 4))},
        {"keys": np.array(["a"]), "boxes": np.zeros((1, 4)), "scores": np.zeros(2)},
        {"a": np.zeros((2, 5))},
        {"a": np.array(["x"] * 4)},
    ],
)
def test_another_archive_is_refused(arrays, tmp_path):
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(CcropError, match=r"b\.npz is no archive of boxes"):
        read_npz(tmp_path / "b.npz", pixels=False)


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04cut"])
def test_what_is_no_archive_is_refused(data, tmp_path):
    (tmp_path / "b.npz").write_bytes(data)
    with pytest.raises(CcropError, match="no archive"):
        read_npz(tmp_path / "b.npz", pixels=False)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA"])
def test_the_box_of_a_mask_is_that_of_its_pixels(mode, tmp_path):
    random = np.random.default_rng(1)
    for number in range(20):
        content = random.random((9, 13)) < 0.03
        content[random.integers(9), random.integers(13)] = True
        channels = {"RGB": 3, "RGBA": 4}.get(mode)
        pixels = content.astype(np.uint16 if mode == "I;16" else np.uint8)
        if channels:
            pixels = np.repeat(pixels[..., None], channels, 2) * np.array([0, 9, 0, 0][:channels])
            pixels[..., 3:] = 255
            mask = Image.fromarray(pixels.astype(np.uint8), mode)
        elif mode == "1":
            mask = Image.fromarray(pixels * 255).convert("1")
        elif mode == "P":
            mask = Image.fromarray(pixels)
            mask.putpalette([0, 0, 0] * 256)  # all colours look alike
        else:
            mask = Image.fromarray(pixels)
        (tmp_path / "x").mkdir(exist_ok=True)
        mask.save(tmp_path / f"x/{number}.png")
        left, top, right, bottom = masks_to_boxes(torch.from_numpy(content)[None])[0].tolist()
        expected = [[left, top, right + 1, bottom + 1]]  # torchvision counts the last pixel
        assert read(read_masks(tmp_path), f"x/{number}.png") == (expected, (13, 9))


def test_a_mask_without_content_gives_no_box_and_a_damaged_one_is_named(tmp_path):
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    masks = read_masks(tmp_path)
    assert read(masks, "a.png") == ([], (3, 2))
    with pytest.raises(CcropError, match=r"b\.png cannot be decoded"):
        masks.read("b.png")


def test_a_digest_changes_with_names_and_bytes(tmp_path):
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    digests = {read_yolo(tmp_path).digest}
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.1 0.2")
    digests.add(read_yolo(tmp_path).digest)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    digests.add(read_yolo(tmp_path).digest)
    assert len(digests) == 3


def label_studio(folder, tasks):
    (folder / "ls.json").write_text(json.dumps(tasks))
    return folder / "ls.json"


def region(x, y, width, height, rotation=0, *, kind="rectanglelabels", size=(200, 100), **more):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
    sides = {"original_width": size[0], "original_height": size[1]} if size else {}
    return {"type": kind, "value": value, "image_rotation": 0, **sides, **more}


def drawn(*regions, **more):
    return {"result": list(regions), **more}


def test_label_studio_boxes_are_percent_of_the_image(tmp_path):
    boxes = [region(10, 20, 30, 40), region(0, 0, 5, 50, kind="rectangle", score=0.5)]
    others = [{"type": "choices", "value": {"choices": ["dull"]}}, {"type": "relation"}]
    others.append(region(0, 0, 5, 50, kind="labels"))  # the label of the rectangle above
    tasks = [
        {"data": {"image": "a.jpg"}, "annotations": [drawn(*boxes, *others)]},
        {"data": {"image": "b.jpg"}, "annotations": [drawn(region(10, 20, 30, 40, size=None))]},
        {"data": {"image": "c.jpg"}, "annotations": [drawn()]},
        {"data": {"image": "d.jpg"}},
    ]
    found = read_label_studio(label_studio(tmp_path, tasks))
    boxes, frame, scores = found.read("a.jpg")
    assert (boxes.tolist(), frame) == ([[20, 20, 80, 60], [0, 0, 10, 50]], (200, 100))
    np.testing.assert_equal(scores, [np.nan, 0.5])
    assert read(found, "b.jpg") == ([[0.1, 0.2, 0.4, 0.6]], "shares")
    assert read(found, "c.jpg") == read(found, "d.jpg") == ([], "shares")


def test_the_annotation_that_counts_is_the_true_or_newest_one_or_the_prediction(tmp_path):
    old, new = (drawn(region(x, 0, 10, 10), created_at=f"2026-0{x}-01") for x in (1, 2))
    true = drawn(region(3, 0, 10, 10), created_at="2025", ground_truth=True)
    skipped = drawn(region(4, 0, 10, 10), created_at="2027", was_cancelled=True)
    predicted = [drawn(region(5, 0, 10, 10))]
    cases = [
        ([new, old], 2), ([old, true, new], 3), ([skipped, old], 1), ([skipped], 5), ([], 5),
    ]  # fmt: skip
    tasks = [
        {"data": {"image": f"{n}.jpg"}, "annotations": own, "predictions": predicted}
        for n, (own, _) in enumerate(cases)
    ]
    found = read_label_studio(label_studio(tmp_path, tasks))
    for n, (_, x) in enumerate(cases):
        assert read(found, f"{n}.jpg")[0] == [[2 * x, 0, 2 * (x + 10), 10]]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/local-files/?d=photos/cats/a%20b.jpg", "photos/cats/a b.jpg"),
        ("/data/upload/7/1f0e9a2b-cat.jpg", "cat.jpg"),
        ("s3://bucket/cats/%C3%BC.jpg", "cats/ü.jpg"),
        ("https://host/cats/a.jpg?token=x", "cats/a.jpg"),
    ],
)
def test_images_of_label_studio_are_named_by_their_address(address, name, tmp_path):
    path = label_studio(tmp_path, [{"data": {"image": address}}])
    assert read_label_studio(path).names == [name]


@pytest.mark.parametrize("degrees", [90, -90, 180, 30, 123.4])
def test_the_box_around_a_rotated_rectangle(degrees, tmp_path):
    """Of Label Studio about the upper left corner, of CVAT about the centre, both clockwise."""

    def around(left, top, width, height, x, y):
        turn = np.exp(1j * np.deg2rad(degrees))  # y runs down
        corners = [
            complex(x, y) + turn * complex(left + a * width - x, top + b * height - y)
            for a in (0, 1)
            for b in (0, 1)
        ]
        xs, ys = [c.real for c in corners], [c.imag for c in corners]
        return [min(xs), min(ys), max(xs), max(ys)]

    tasks = [{"data": {"image": "a"}, "annotations": [drawn(region(40, 50, 10, 10, degrees))]}]
    boxes, _ = read(read_label_studio(label_studio(tmp_path, tasks)), "a")
    np.testing.assert_allclose(boxes, [around(80, 50, 20, 10, 80, 50)], atol=1e-9)
    path = cvat(tmp_path, f'<box xtl="80" ytl="50" xbr="100" ybr="60" rotation="{degrees}"/>')
    boxes, _ = read(read_cvat(path), "a.jpg")
    np.testing.assert_allclose(boxes, [around(80, 50, 20, 10, 90, 55)], atol=1e-9)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"data": {}}, "tasks are"),
        ([{"image": "a.jpg", "label": []}], "'data' is missing.*not JSON-MIN"),
        ([{"data": {"text": "a"}}], "without key and image"),
        ([{"data": {"image": "a"}}] * 2, "2 tasks are of the image 'a'"),
        ([region(0, 0, 1, 1, kind="polygonlabels")], "is of the type 'polygonlabels'"),
        ([region(0, 0, 1, 1, image_rotation=90)], "turned by 90 degrees"),
        ([region(0, 0, 1, 1, 30, size=None)], "has no original_width"),
        ([region(0, 0, 1, 1, size=(0, 5))], r"has the sides \(0, 5\)"),
        ([region(0, 0, 1, 1), region(0, 0, 1, 1, size=(3, 3))], "of several sizes"),
        ([region(300, 0, 1, 1, size=None)], "Numbers are percent"),
    ],
)
def test_what_is_no_label_studio_export_is_refused(tasks, said, tmp_path):
    if isinstance(tasks, list) and "type" in tasks[0]:
        tasks = [{"data": {"image": "a"}, "annotations": [drawn(*tasks)]}]
    with pytest.raises(CcropError, match=said) as caught:
        read_label_studio(label_studio(tmp_path, tasks))
    assert "ls.json" in str(caught.value)


def cvat(folder, content, *, head='<image id="0" name="a.jpg" width="200" height="100">'):
    meta = "<meta><task><name>t</name></task></meta>"
    text = f"<annotations><version>1.1</version>{meta}{head}{content}</image></annotations>"
    (folder / "annotations.xml").write_text(text)
    return folder / "annotations.xml"


def test_cvat_boxes_are_corners_in_pixels(tmp_path):
    label = '<attribute name="sure">yes</attribute>'
    boxes = f'<box label="cat" xtl="1.50" ytl="2" xbr="30" ybr="40.25" occluded="1">{label}</box>'
    tag = '<tag label="dull"></tag>'
    more = '</image><image id="7" name="c/ü b.jpg" width="3" height="4">'
    found = read_cvat(cvat(tmp_path, boxes + tag + boxes.replace("1.50", "0") + more))
    assert (found.kind, list(found.names)) == ("cvat", ["a.jpg", "c/ü b.jpg"])
    assert read(found, "a.jpg") == ([[1.5, 2, 30, 40.25], [0, 2, 30, 40.25]], (200, 100))
    assert read(found, "c/ü b.jpg") == ([], (3, 4))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('<polygon points="0,0;1,1"></polygon>', "'a.jpg' has a polygon.*export as COCO"),
        ('<mask rle="3, 4" left="0"></mask>', "has a mask"),
        ('<box xtl="0" ytl="0" xbr="9"/>', "'ybr' is missing"),
        ('<box xtl="0" ytl="0" xbr="9" ybr="x"/>', "could not convert"),
        ('</image><image name="a.jpg" width="200" height="100">', "two images are named 'a.jpg'"),
        ('</image><image name="b.jpg" width="0" height="100">', "has the sides"),
        ('<image name="b.jpg" width="1" height="1"></image>', "no child of annotations"),
        ('</image><track id="0"></track><image name="b" width="1" height="1">', "has tracks"),
    ],
)
def test_what_is_no_cvat_for_images_is_refused(content, said, tmp_path):
    with pytest.raises(CcropError, match=said) as caught:
        read_cvat(cvat(tmp_path, content))
    assert "annotations.xml" in str(caught.value)


def open_images(folder, text):
    (folder / "boxes.csv").write_text(text)
    return folder / "boxes.csv"


def test_open_images_has_both_edges_of_an_axis_together(tmp_path):
    path = open_images(
        tmp_path,
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf\n"
        "000001,xclick,/m/01g317,1,0.25,0.5,0.125,1,0,0\n"
        "000001,activemil,/m/0199g,0.5,0,1,0,0.5,-1,-1\n"
        "000002,xclick,/m/01g317,1,0,1,0,1,0,1\n",  # a group is no object
    )
    found = read_open_images(path)
    boxes, frame, scores = found.read("000001")
    assert (boxes.tolist(), frame) == ([[0.25, 0.125, 0.5, 1], [0, 0, 1, 0.5]], "shares")
    assert scores.tolist() == [1, 0.5]
    assert read(found, "000002") == ([], "shares")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ImageID,XMin,XMax,YMin\na,0,1,0\n", "it has no YMax"),
        ("ImageID,XMin,XMax,YMin,YMax\na,0,100,0,1\n", "as large as 100"),
        ("ImageID,XMin,XMax,YMin,YMax\n", "names no image"),
    ],
)
def test_what_is_no_open_images_table_is_refused(text, said, tmp_path):
    with pytest.raises(CcropError, match=said):
        read_open_images(open_images(tmp_path, text))


def test_fiftyone_boxes_are_left_top_width_height_in_shares(tmp_path):
    """As FiftyOne 1.22.1 writes them, which has `null` for what it does not know."""
    one = {"label": "cat", "bounding_box": [0.25, 0.5, 0.25, 0.125], "confidence": 0.5}
    two = {"label": 0, "bounding_box": [0, 0, 1, 1], "confidence": None, "attributes": {}}
    labels = {"cats/a b": [one, two], "e": None, "f": []}
    (tmp_path / "labels.json").write_text(json.dumps({"classes": None, "labels": labels}))
    found = read_fiftyone(tmp_path / "labels.json")
    boxes, frame, scores = found.read("cats/a b")
    assert (boxes.tolist(), frame) == ([[0.25, 0.5, 0.5, 0.625], [0, 0, 1, 1]], "shares")
    np.testing.assert_equal(scores, [0.5, np.nan])
    assert read(found, "e") == read(found, "f") == ([], "shares")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"a": [{"label": "x"}]}, "'bounding_box' is missing"),
        ({"a": [{"bounding_box": [0, 0, 1]}]}, r"a bounding_box is \[0, 0, 1\]"),
        ({"a": [{"bounding_box": [0, 0, 30, 40]}]}, "as large as 40"),
        (["a"], "no FiftyOne file"),
    ],
)
def test_what_is_no_fiftyone_file_is_refused(labels, said, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(CcropError, match=said):
        read_fiftyone(tmp_path / "labels.json")
