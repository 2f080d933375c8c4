"""Every block of docs/import-export.md, each run by itself as it stands, on a few tiny images.

The images are 64 by 48 px. On each, every tool of the page has found the same object.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline.boxset import BoxSet

PAGE = (Path(__file__).parents[2] / "docs/import-export.md").read_text()
BLOCKS = [block for _, block in re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)]
TRAINED = [block for block in BLOCKS if "ccrop train" in block]
PYTHON = [block for block in BLOCKS if "import" in block and "ccrop" not in block.split()]
COMMANDS = [block for block in BLOCKS if block not in TRAINED + PYTHON]
WIDTH, HEIGHT, COUNT = 64, 48, 8
LEFT, TOP, RIGHT, BOTTOM = 16, 12, 40, 36  # of the object, in pixels
BOX = [LEFT / WIDTH, TOP / HEIGHT, RIGHT / WIDTH, BOTTOM / HEIGHT]
SIDE = [4, 4, 6, 6]  # of a second object, inside no other
FAST = (  # what the page's recipes are made tiny by
    "--device cpu --workers 0 --set image_size=16 --set batch_size=4 --set epochs=1 "
    "--set optimizer.lr_warmup_epochs=0 --set backbone=small --set probe.every=0"
)


def rle(left, top, right, bottom):
    """A mask by its run lengths, made of its pixels."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    return {
        "size": [HEIGHT, WIDTH],
        "counts": np.diff([0, *edges.tolist(), flat.size]).tolist(),
    }


def wh(left, top, right, bottom):
    return [left, top, right - left, bottom - top]


OBJECT = (LEFT, TOP, RIGHT, BOTTOM)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which everything lies that the page names."""
    place = tmp_path_factory.mktemp("page")
    random = np.random.default_rng(0)
    names = [f"{kind}/{number:04d}.jpg" for kind in ("cats", "dogs") for number in range(4)]
    imagenet = [f"n01440764/n01440764_{number}.JPEG" for number in range(COUNT)]
    for root, own in (("photos", names), ("imagenet/train", imagenet)):
        for name in own:
            path = place / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(path, "JPEG")
    ids = {139 + number: name for number, name in enumerate(names)}
    listed = [
        {"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in ids.items()
    ]
    dump(place / "images.json", {"images": listed})
    dump(
        place / "results.json",
        [
            {"image_id": n, "category_id": 1, "bbox": wh(*box), "score": score}
            for n in ids
            for box, score in ((SIDE, 0.2), (OBJECT, 0.9))
        ],
    )
    boxes = [{"image_id": n, "bbox": wh(*OBJECT)} for n in ids]
    dump(place / "instances.json", {"images": listed, "annotations": boxes})
    cutler(place / "imagenet_train_fixsize480_tau0.15_N3.json", imagenet)
    for name in names:
        masks(place, Path(name).with_suffix(""))
    # With a radius of 60, the box has the object's upper left corner and ends with the image.
    gaze = [f"{name},{LEFT + 60},{TOP + 60}" for name in names]
    (place / "gaze.csv").write_text("\n".join(["key,x,y", *gaze]))
    shares = ",".join(map(str, BOX))
    (place / "boxes.csv").write_text(
        "\n".join(["key,x_min,y_min,x_max,y_max", *(f"{name},{shares}" for name in names)])
    )
    for_labelling_tools(place, names)
    np.savez(place / "boxes.npz", keys=names, boxes=[OBJECT] * COUNT)
    run(place, "ccrop boxes import photos boxes/first --csv boxes.csv")
    return place


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def for_labelling_tools(place, names):
    """The object in each image as Label Studio, CVAT, FiftyOne and Open Images have it."""
    x, y, x_max, y_max = BOX
    sizes = {"original_width": WIDTH, "original_height": HEIGHT}
    value = {"x": 100 * x, "y": 100 * y, "width": 100 * (x_max - x), "height": 100 * (y_max - y)}
    region = {"type": "rectanglelabels", "value": value, **sizes}
    dump(
        place / "project-1.json",
        [{"data": {"image": f"/data/local-files/?d={name}"}, "annotations": [{"result": [region]}]}
         for name in names],
    )  # fmt: skip
    box = f'<box xtl="{LEFT}.00" ytl="{TOP}.00" xbr="{RIGHT}.00" ybr="{BOTTOM}.00"></box>'
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    images = "".join(f'<image name="{name}" {size}>{box}</image>' for name in names)
    (place / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    stems = [str(Path(name).with_suffix("")) for name in names]
    found = [{"label": "x", "bounding_box": [x, y, x_max - x, y_max - y]}]
    dump(place / "labels.json", {"labels": dict.fromkeys(stems, found)})
    lines = [f"{stem},xclick,/m/0,1,{x},{x_max},{y},{y_max},0,0,0,0,0" for stem in stems]
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated"
    (place / "annotations-bbox.csv").write_text(
        "\n".join([f"{head},IsGroupOf,IsDepiction,IsInside", *lines])
    )


def cutler(path, names):
    """As `maskcut.py` writes its file: width and height of images in each other's place."""
    images = [
        {"id": n, "file_name": name, "width": HEIGHT, "height": WIDTH, "license": 1}
        for n, name in enumerate(names, 1)
    ]
    annotations = [
        {"id": 3 * n + k, "image_id": n, "category_id": 1, "iscrowd": 0, "bbox": wh(*box),
         "segmentation": rle(*box), "width": WIDTH, "height": HEIGHT}
        for n in range(1, COUNT + 1)
        for k, box in enumerate((OBJECT, SIDE, SIDE)[: 1 + n % 3])
    ]  # fmt: skip
    info = {"description": "ImageNet-1K: pseudo-masks with MaskCut"}
    dump(path, {"info": info, "categories": [], "images": images, "annotations": annotations})


def masks(place, name):
    """A PNG with a palette, masks of SAM and a label file of one image."""
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[TOP:BOTTOM, LEFT:RIGHT] = 3
    numbers[:, -1] = 255
    mask = Image.fromarray(numbers, "P")
    mask.putpalette(list(range(256)) * 3)
    for folder in ("masks", "sam", "labels"):
        (place / folder / name).parent.mkdir(parents=True, exist_ok=True)
    mask.save(place / "masks" / f"{name}.png")
    found = [
        {"segmentation": rle(*box), "predicted_iou": score, "bbox": [0, 0, 0, 0]}
        for box, score in ((SIDE, 0.8), (OBJECT, 0.95))
    ]
    dump(place / "sam" / f"{name}.json", found)
    centre = [(BOX[0] + BOX[2]) / 2, (BOX[1] + BOX[3]) / 2, BOX[2] - BOX[0], BOX[3] - BOX[1]]
    (place / "labels" / f"{name}.txt").write_text(" ".join(map(str, [0, *centre])))


def run(place, line):
    words = shlex.split(line)
    assert words[0] == "ccrop"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        result = CliRunner().invoke(cli, words[1:] + (FAST.split() if words[1] == "train" else []))
    assert result.exit_code == 0, f"{line}\n{result.output}"
    return words


@pytest.fixture
def place(made, tmp_path):
    """A copy that no other block has touched."""
    return shutil.copytree(made, tmp_path / "place")


def test_all_blocks_are_run_here():
    assert (len(TRAINED), len(PYTHON), len(COMMANDS)) == (12, 4, 3)


@pytest.mark.slow
@pytest.mark.parametrize("block", TRAINED, ids=lambda block: block.split()[4])
def test_two_commands_lead_to_training_from_the_boxes(block, place):
    first, second = block.splitlines()
    _, _, _, source, boxes, *_ = run(place, first)
    words = run(place, second)
    assert (words[2], words[-1]) == (source, boxes)
    box_set = BoxSet.open(place / boxes)
    run(place, f"ccrop boxes validate {boxes} {source}")
    for _, table in box_set.tables():
        kept = [table.boxes] if table.choices is None else [table.choices.of_row(0)]
        expected = [*BOX[:2], 1, 1] if "gaze" in boxes else BOX
        assert table.status.tolist() == [0] * COUNT
        assert kept[0][0].tolist() == np.float32(expected).tolist()
    assert json.loads((place / words[3] / "metrics.jsonl").read_text().splitlines()[-1])
    assert (place / words[3] / "checkpoint.pt").is_file()


@pytest.mark.parametrize("block", COMMANDS)
def test_commands_run_by_themselves(block, place):
    for line in block.splitlines():
        run(place, line)


@pytest.mark.parametrize("block", PYTHON)
def test_python_runs_by_itself(block, place, monkeypatch):
    monkeypatch.chdir(place)
    if "mlcroissant" in block:
        pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
        run(place, "ccrop boxes export boxes/first boxes/first --form croissant")
    exec(compile(block, "docs/import-export.md", "exec"), {})
