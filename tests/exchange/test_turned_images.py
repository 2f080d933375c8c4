"""Boxes for and from tools that turn images by their EXIF orientation, on the pixels themselves."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import slow_readers
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image, ImageOps

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.exchange import (
    Several,
    export_boxes,
    import_boxes,
    read_coco,
    read_csv,
    read_cvat,
    read_fiftyone,
    read_label_studio,
    read_masks,
    read_open_images,
    read_yolo,
)
from ccrop_pipeline.images import open_source

PAGE = Path(__file__).parents[2] / "docs/import-export.md"
WIDTH, HEIGHT = 40, 24  # of the upright image
BOX = (5, 3, 15, 21)  # of the object there, in pixels, half-open
ORIENTATIONS = range(1, 9)
# What brings the upright image back to how it is stored, by Pillow's own names.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def scene():
    image = Image.new("RGB", (WIDTH, HEIGHT))
    image.paste((255, 255, 255), BOX)
    return image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The same upright scene eight times, stored in each orientation."""
    folder = tmp_path_factory.mktemp("turned") / "photos"
    folder.mkdir()
    for orientation, turn in STORED.items():
        stored = scene() if turn is None else scene().transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored.save(folder / f"{orientation}.png", exif=exif)
        with Image.open(folder / f"{orientation}.png") as image:
            assert np.array_equal(ImageOps.exif_transpose(image), scene())
    return folder


def covers_the_object(pixels, box):
    """Whether a box, in pixels, has all of the white and nothing else."""
    left, top, right, bottom = (round(edge) for edge in box)
    np.testing.assert_allclose(box, (left, top, right, bottom), atol=1e-4)
    grey = np.asarray(pixels.convert("L"))
    return grey[top:bottom, left:right].all() and grey.sum() == grey[top:bottom, left:right].sum()


def drawn_upright(photos, form):
    """What a tool writes that showed the images upright."""
    folder = photos.parent
    x0, y0, x1, y1 = BOX
    if form == "coco":
        images = [
            {"id": o, "file_name": f"{o}.png", "width": WIDTH, "height": HEIGHT}
            for o in ORIENTATIONS
        ]
        boxes = [{"image_id": o, "bbox": [x0, y0, x1 - x0, y1 - y0]} for o in ORIENTATIONS]
        (folder / "b.json").write_text(json.dumps({"images": images, "annotations": boxes}))
        return read_coco(folder / "b.json")
    if form.startswith("csv"):
        sides = (1, 1) if form == "csv pixels" else (WIDTH, HEIGHT)
        edges = [x0 / sides[0], y0 / sides[1], x1 / sides[0], y1 / sides[1]]
        lines = [",".join(map(str, [f"{o}.png", *edges])) for o in ORIENTATIONS]
        (folder / "b.csv").write_text("\n".join(["key,x_min,y_min,x_max,y_max", *lines]))
        return read_csv(folder / "b.csv", pixels=form == "csv pixels")
    (folder / form).mkdir(exist_ok=True)
    for o in ORIENTATIONS:
        if form == "masks":
            scene().convert("L").save(folder / form / f"{o}.png")
        else:
            numbers = (
                (x0 + x1) / 2 / WIDTH,
                (y0 + y1) / 2 / HEIGHT,
                (x1 - x0) / WIDTH,
                (y1 - y0) / HEIGHT,
            )
            (folder / form / f"{o}.txt").write_text("0 " + " ".join(map(str, numbers)))
    return read_masks(folder / form) if form == "masks" else read_yolo(folder / form)


@pytest.mark.parametrize("form", ["coco", "csv", "csv pixels", "yolo", "masks"])
def test_boxes_drawn_upright_cover_the_object_in_the_stored_pixels(photos, form, tmp_path):
    annotations = drawn_upright(photos, form)
    box_set, counts = import_boxes(open_source(photos), annotations, tmp_path / "b", upright=True)
    assert (counts.matched, counts.boxes, counts.misfits) == (8, 8, 0)
    for row in box_set:
        with Image.open(photos / row.key) as stored:
            box = row.box * np.tile(stored.size, 2)
            assert covers_the_object(stored, box), row
    # A second call takes what is there, and counts it again.
    again = import_boxes(open_source(photos), annotations, tmp_path / "b", upright=True)[1]
    assert again == counts


@pytest.fixture(scope="module")
def boxes(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes") / "b"
    annotations = drawn_upright(photos, "coco")
    several = Several("keep:3")
    return import_boxes(open_source(photos), annotations, folder, several=several, upright=True)[0]


def read_coco_boxes(path):
    content = json.loads(path.read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    sizes = {image["file_name"]: (image["width"], image["height"]) for image in content["images"]}
    return {names[each["image_id"]]: each["bbox"] for each in content["annotations"]}, sizes


TOOLS = [*slow_readers.READERS]


def out_of(form, folder):
    endings = {"cvat": ".xml", "open-images": ".csv", "yolo": ""}
    return folder / f"out{endings.get(form, '.json')}"


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("form", TOOLS)
def test_exports_for_labelling_tools_cover_the_object_in_their_frame(
    boxes, photos, form, turned, tmp_path
):
    path = export_boxes(boxes, out_of(form, tmp_path), form, upright=turned)
    images = {}
    for name in (f"{o}.png" for o in ORIENTATIONS):
        with Image.open(photos / name) as stored:
            images[name] = ImageOps.exif_transpose(stored) if turned else stored.copy()
    sizes = {name: image.size for name, image in images.items()}
    found = slow_readers.READERS[form](path, sizes)
    assert sorted(found) == sorted(images)
    for name, (box,) in found.items():
        assert covers_the_object(images[name], box), name


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("form", ["coco", "hf"])
def test_exports_cover_the_object_in_the_frame_of_their_reader(
    boxes, photos, form, turned, tmp_path
):
    path = export_boxes(boxes, tmp_path / "out", form, upright=turned)
    if form == "coco":
        found, sizes = read_coco_boxes(path)
    else:
        rows = pq.read_table(path).to_pylist()
        found = {row["file_name"]: row["objects"]["bbox"][0] for row in rows}
        sizes = {}
    assert sorted(found) == [f"{o}.png" for o in ORIENTATIONS]
    for name, (x, y, width, height) in found.items():
        with Image.open(photos / name) as stored:
            image = ImageOps.exif_transpose(stored) if turned else stored
            assert sizes.get(name, image.size) == image.size
            assert covers_the_object(image, (x, y, x + width, y + height)), name


READ = {
    "coco": read_coco,
    "cvat": read_cvat,
    "fiftyone": read_fiftyone,
    "label-studio": read_label_studio,
    "open-images": read_open_images,
    "yolo": read_yolo,
}


@pytest.mark.parametrize("form", READ)
def test_an_upright_export_comes_back_by_an_upright_import(boxes, photos, form, tmp_path):
    path = export_boxes(boxes, out_of(form, tmp_path), form, upright=True)
    back, counts = import_boxes(open_source(photos), READ[form](path), tmp_path / "b", upright=True)
    assert (counts.boxes, counts.misfits) == (8, 0)
    for row, first in zip(back, boxes, strict=True):
        np.testing.assert_allclose(row.box, first.box, atol=1e-6)


def test_commands_take_and_give_upright_boxes(photos, tmp_path):
    drawn_upright(photos, "coco")
    run = lambda *words: CliRunner().invoke(cli, ["boxes", *map(str, words)])  # noqa: E731
    done = run("import", photos, tmp_path / "b", "--coco", photos.parent / "b.json", "--upright")
    assert "8 images" in done.stdout
    assert "misfits" not in done.stdout
    assert ", upright, sha256" in done.stdout
    without = run("import", photos, tmp_path / "c", "--coco", photos.parent / "b.json")
    assert "misfits     4 images" in without.stdout
    out = tmp_path / "out.json"
    assert run("export", tmp_path / "b", out, "--form", "coco", "--upright").exit_code == 0
    assert json.loads(out.read_text())["info"]["frame"] == "upright"
    # Tools that turn images in any case are named where boxes are of the stored pixels.
    noted = run("export", tmp_path / "b", tmp_path / "stored.json", "--form", "label-studio")
    assert "7 images of these have an EXIF orientation" in " ".join(noted.stderr.split())
    fine = run("export", tmp_path / "b", tmp_path / "l", "--form", "label-studio", "--upright")
    assert fine.stderr == ""
    refused = run("export", tmp_path / "b", tmp_path / "p", "--form", "parquet", "--upright")
    assert refused.exit_code == 2


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_lines_of_the_page_turn_boxes_for_readers_that_turn_images(boxes, photos, orientation):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (lines,) = (block for block in blocks if "import BoxSet, upright" in block)
    key, names = f"{orientation}.png", {}
    lines = lines.replace("boxes/first", str(boxes.folder)).replace("cats/0001.jpg", key)
    exec(compile(lines, str(PAGE), "exec"), names)
    reader = ImageOps.exif_transpose(Image.open(io.BytesIO((photos / key).read_bytes())))
    assert covers_the_object(reader, np.asarray(names["box"]) * np.tile(reader.size, 2))


def test_hugging_face_reads_upright_exports_with_the_images_it_turns(boxes, photos, tmp_path):
    datasets = pytest.importorskip("datasets")
    for path in photos.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    export_boxes(BoxSet.open(boxes.folder), tmp_path, "hf", upright=True)
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == 8
    for row in loaded:
        ((x, y, width, height),) = row["objects"]["bbox"]
        assert covers_the_object(row["image"], (x, y, x + width, y + height))
