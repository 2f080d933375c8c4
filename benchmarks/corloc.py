"""CorLoc and found objects on a folder as of PASCAL VOC 2007: corloc.py VOC2007 OUT --model SPEC.

Computes the boxes of the images that ImageSets/Main/trainval.txt names into the box set OUT, or
takes those that are there, and compares them with Annotations. Any source whose images come with
true boxes does as well. Prints a JSON line for each data set that the annotations name:

- corloc: share of images whose first box has an IoU of at least 0.5 with any true box.
- found: share of true objects with an IoU of at least 0.5 with a box of their image, where each
  box counts for one object at most, in the way that finds the most.

As in the code of LOST (valeoai/LOST, datasets.py) the pixels xmin to xmax are counted from 1 and
both inside, all objects count, difficult and truncated ones too, and with --no-hard (VOC_all of
the papers) neither these nor images that have no others. TokenCut is evaluated the same way.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset import FULL_BOX, BoxSet, iou
from ccrop_pipeline.images import Sample, Source, open_source, true_boxes
from ccrop_pipeline.images.source import digest_files

Boxes = NDArray[np.float64]
CENTRE_80 = (0.1, 0.1, 0.9, 0.9)
MAX_BYTES = 1_000_000  # of an annotation; those of VOC have up to 30,000
HARD = ("difficult", "truncated")


class NoDoctype(ElementTree.TreeBuilder):
    """Builds trees of documents without a document type, so that no entity can be declared."""

    def doctype(self, name: str, *_ids: object) -> None:
        """Refuse the document."""
        raise ValueError(f"it declares the document type {name!r}")


def read_annotation(path: Path, *, hard: bool = True) -> tuple[tuple[int, int], Boxes]:
    """Return width and height of an image, and its true boxes (m, 4), normalised and half-open.

    Args:
        path: The XML file.
        hard: Whether difficult and truncated objects count.

    Raises:
        ValueError: If the file is too large, declares a document type, or holds no annotation.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        root = ElementTree.fromstring(content, ElementTree.XMLParser(target=NoDoctype()))
        size = (_number(root, "size/width"), _number(root, "size/height"))
        objects = [
            [_number(one, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
            for one in root.iterfind("object")
            if hard or all(one.findtext(name, "0").strip() != "1" for name in HARD)
        ]
    except (ValueError, ElementTree.ParseError) as error:
        raise ValueError(f"{path} is no annotation of VOC: {error}.") from error
    pixels = np.array(objects, np.float64).reshape(-1, 4) - (1, 1, 0, 0)
    boxes = pixels / (size * 2)
    if not ((boxes >= 0) & (boxes <= 1)).all() or not (boxes[:, :2] < boxes[:, 2:]).all():
        raise ValueError(
            f"{path} has a box that is not inside of its {size[0]} x {size[1]} pixels."
        )
    return size, boxes


def _number(element: ElementTree.Element, path: str) -> int:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"it has no {path}")
    return int(float(text))  # a few files of VOC 2011 have fractions


class Voc:
    """The images that a list of a VOC folder names, as one shard."""

    kind, random_access, classes = "folder", False, ()

    def __init__(self, folder: Path, image_set: str) -> None:
        self._folder, self._images = folder, folder / "JPEGImages"
        self.shards = (image_set,)
        self.location = str(folder)
        lines = (folder / "ImageSets" / "Main" / f"{image_set}.txt").read_text().splitlines()
        self.keys = [line.split()[0] for line in lines if line.strip()]

    def read(self, _shard: str) -> Iterator[Sample]:
        """Yield the images in the order of the list."""
        for key in self.keys:
            yield Sample(key, (self._images / f"{key}.jpg").read_bytes(), None)

    def annotation(self, key: str) -> Path:
        """Return the file of what is true of an image."""
        return self._folder / "Annotations" / f"{key}.xml"

    def fingerprint(self) -> str:
        """Return a digest of names, sizes and ends of the files."""
        return digest_files(self.kind, (self._images / f"{key}.jpg" for key in self.keys))

    def index(self) -> None:
        """Refuse random access, which nothing here needs."""
        raise ValueError("images of VOC are read in order")


def matched(boxes: Boxes, truth: Boxes) -> int:
    """Return how many true boxes (m, 4) can each have a box (k, 4) of their own."""
    from scipy.optimize import linear_sum_assignment

    fits = np.array([iou(box, truth) >= 0.5 for box in boxes]).reshape(len(boxes), len(truth))
    rows, columns = linear_sum_assignment(fits, maximize=True)
    return int(fits[rows, columns].sum())


def figures(boxes: list[Boxes], truths: list[Boxes]) -> dict[str, float]:
    """Return the measures of boxes, the first of each image its best, and of two fixed ones.

    Args:
        boxes: (k, 4) for each image, k at least 1.
        truths: (m, 4) for each image; where m is 0 the image counts as not found.
    """

    def corloc(first: list[Boxes]) -> float:
        pairs = zip(first, truths, strict=True)
        return float(np.mean([bool((iou(box, truth) >= 0.5).any()) for box, truth in pairs]))

    n, objects = len(truths), sum(map(len, truths))
    share = corloc([of_image[0] for of_image in boxes])
    found = sum(matched(own, truth) for own, truth in zip(boxes, truths, strict=True))
    return {
        "images": n,
        "corloc": share,
        "corloc_se": float(np.sqrt(share * (1 - share) / n)),
        "objects": objects,
        "boxes": sum(map(len, boxes)),
        "found": found / objects if objects else 0.0,
        "corloc_whole_image": corloc([np.array(FULL_BOX)] * n),
        "corloc_centre_80": corloc([np.array(CENTRE_80)] * n),
    }


def judged(source: Source, box_set: BoxSet, *, hard: bool) -> dict[str, dict[str, float]]:
    """Compare a box set with the true boxes of its images, for each data set."""
    groups: dict[str, tuple[list[Boxes], list[Boxes]]] = {}
    for shard in source.shards:
        rows = {row.key: row for row in box_set.read(shard)}
        for sample in source.read(shard):
            row, group = rows[sample.key], "all"
            if isinstance(source, Voc):
                size, truth = read_annotation(source.annotation(row.key), hard=hard)
                if size != (row.width, row.height):
                    raise ValueError(
                        f"{row.key} has {row.width} x {row.height} pixels, and {size} is said."
                    )
            else:
                truth = true_boxes(sample.annotation)
                group = str(json.loads(sample.annotation or b"{}").get("source", group))
            if len(truth) or (hard and isinstance(source, Voc)):
                boxes, truths = groups.setdefault(group, ([], []))
                boxes.append(np.array(row.choices or [row.box], np.float64))
                truths.append(truth)
    return {group: figures(*pair) for group, pair in sorted(groups.items())}


def main() -> None:
    """Compute boxes where there are none, and print what they find."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="folder with JPEGImages, Annotations and ImageSets; or any")
    parser.add_argument("out", type=Path, help="box set; goes on with one that is begun")
    parser.add_argument("--model", required=True)
    parser.add_argument("--map", default="lost", help="or tokencut, sum, l2, …, linear:FILE")
    parser.add_argument("--threshold", type=float, help="default: the map's, or it sets itself")
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--layer")
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", default="trainval", dest="image_set")
    parser.add_argument("--no-hard", action="store_true")
    options = parser.parse_args()

    from ccrop_pipeline.compute import compute_boxes
    from ccrop_pipeline.localize import BoxRule, Localizer, open_device
    from ccrop_pipeline.models import open_encoder
    from ccrop_pipeline.models.head_files import read_head

    folder = Path(options.source)
    is_voc = (folder / "JPEGImages").is_dir()
    source = Voc(folder, options.image_set) if is_voc else open_source(options.source)
    encoder = open_encoder(
        options.model,
        layer=options.layer,
        input_size=options.input_size,
        device=open_device(options.device),
    )
    name, _, file = options.map.partition(":")
    rule = BoxRule(options.threshold, objects=options.objects)
    localizer = Localizer(encoder, name, rule, head=read_head(file, encoder) if file else None)
    box_set = compute_boxes(source, localizer, options.out)
    what = {"map": options.map, "input_size": encoder.input_size}
    for group, result in judged(source, box_set, hard=not options.no_hard).items():
        print(json.dumps({"source": group, **what, **result}))


if __name__ == "__main__":
    main()
