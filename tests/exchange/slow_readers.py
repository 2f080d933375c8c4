"""Slow readers of what is exported, each written from the tool's own description of its form.

They share no code with ours and give boxes in pixels of images whose sizes are given, by the name
that the form has for the image.
"""

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import parse_qs, urlparse

Boxes = dict[str, list[list[float]]]
Sizes = dict[str, tuple[int, int]]  # by the names of files


def without_extension(name: str) -> str:
    return str(Path(name).with_suffix(""))


def yolo(folder: Path, sizes: Sizes) -> Boxes:
    found = {}
    for name, (width, height) in sizes.items():
        path = folder / f"{without_extension(name)}.txt"
        if not path.exists():
            continue
        found[name] = []
        for line in path.read_text().splitlines():
            number, *numbers = line.split(" ")
            assert number == "0"
            x, y, w, h = map(float, numbers)
            box = [(x - w / 2) * width, (y - h / 2) * height]
            found[name].append([*box, (x + w / 2) * width, (y + h / 2) * height])
    labels = {path.relative_to(folder).as_posix() for path in folder.rglob("*.txt")}
    assert len(labels) == len(found) + 1  # and no more than these
    assert (folder / "classes.txt").read_text() == "content\n"
    return found


def cvat(path: Path, sizes: Sizes) -> Boxes:
    root = ET.parse(path).getroot()
    assert root.tag == "annotations"
    assert root.findtext("version") == "1.1"
    assert root.findtext("meta/task/labels/label/name") == "content"
    images = root.findall("image")
    assert [image.get("id") for image in images] == [str(n) for n in range(len(images))]
    assert root.findtext("meta/task/size") == str(len(images))
    found = {}
    for image in images:
        assert (int(image.get("width")), int(image.get("height"))) == sizes[image.get("name")]
        assert {box.get("label") for box in image} <= {"content"}
        found[image.get("name")] = [
            [float(box.get(edge)) for edge in ("xtl", "ytl", "xbr", "ybr")] for box in image
        ]
    return found


def label_studio(path: Path, sizes: Sizes) -> Boxes:
    found = {}
    for task in json.loads(path.read_text()):
        address = urlparse(task["data"]["image"])
        assert address.path == "/data/local-files/"
        (name,) = parse_qs(address.query)["d"]
        (prediction,) = task["predictions"]
        found[name] = []
        ids = [region["id"] for region in prediction["result"]]
        assert len(ids) == len(set(ids))
        for region in prediction["result"]:
            size = region["original_width"], region["original_height"]
            assert size == sizes[name]
            assert (region["type"], region["from_name"], region["to_name"]) == (
                "rectanglelabels", "label", "image",
            )  # fmt: skip
            value = region["value"]
            assert value["rectanglelabels"] == ["content"]
            assert value["rotation"] == region["image_rotation"] == 0
            left, top = value["x"] / 100 * size[0], value["y"] / 100 * size[1]
            right = left + value["width"] / 100 * size[0]
            found[name].append([left, top, right, top + value["height"] / 100 * size[1]])
    return found


def open_images(path: Path, sizes: Sizes) -> Boxes:
    names = {without_extension(name): name for name in sizes}
    head = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
    )
    assert path.read_text().splitlines()[0] == f"{head},IsDepiction,IsInside"
    found: Boxes = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            name = names[row["ImageID"]]
            width, height = sizes[name]
            assert (row["LabelName"], row["Confidence"], row["IsGroupOf"]) == ("content", "1", "-1")
            left, right = float(row["XMin"]) * width, float(row["XMax"]) * width
            top, bottom = float(row["YMin"]) * height, float(row["YMax"]) * height
            found.setdefault(name, []).append([left, top, right, bottom])
    return found


def fiftyone(path: Path, sizes: Sizes) -> Boxes:
    names = {without_extension(name): name for name in sizes}
    found = {}
    for uuid, detections in json.loads(path.read_text())["labels"].items():
        width, height = sizes[names[uuid]]
        found[names[uuid]] = []
        for detection in detections:
            assert detection["label"] == "content"
            x, y, w, h = detection["bounding_box"]
            found[names[uuid]].append([x * width, y * height, (x + w) * width, (y + h) * height])
    return found


READERS = {
    "cvat": cvat,
    "fiftyone": fiftyone,
    "label-studio": label_studio,
    "open-images": open_images,
    "yolo": yolo,
}
