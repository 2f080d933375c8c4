"""`ccrop boxes import`."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccrop_pipeline.errors import counted

from .option_types import FiniteRange, LocalPath
from .printing import print_json, print_line

if TYPE_CHECKING:
    from ccrop_pipeline.exchange import Annotations, ImportCounts

_FILE = LocalPath(exists=True, dir_okay=False)
_FOLDER = LocalPath(exists=True, file_okay=False)


def _several(_context: click.Context, _option: click.Parameter, text: str) -> str:
    if not re.fullmatch(r"union|largest|(keep|top):[1-9]\d{0,8}", text):
        raise click.BadParameter(
            f"{text!r} is not union, largest, keep:K or top:K with K at least 1."
        )
    return text


@click.command("import")
@click.argument("source")
@click.argument("out")
@click.option("--coco", type=_FILE, help="COCO detection JSON, or a detector's list of results.")
@click.option(
    "--images",
    type=_FILE,
    help="COCO JSON that lists the images of --coco, where that is a list of results.",
)
@click.option("--cvat", type=_FILE, help="XML of CVAT for images 1.1.")
@click.option("--fiftyone", type=_FILE, help="labels.json of a FiftyOneImageDetectionDataset.")
@click.option("--label-studio", type=_FILE, help="JSON export of Label Studio.")
@click.option("--open-images", type=_FILE, help="CSV of boxes as Open Images has them.")
@click.option("--yolo", type=_FOLDER, help="Folder of YOLO label files.")
@click.option(
    "--csv", type=_FILE, help="Table with key and x_min, y_min, x_max, y_max or x, y, radius."
)
@click.option(
    "--radius",
    type=FiniteRange(0, min_open=True),
    help="Of points of --csv that have none, in the unit of x and y.",
)
@click.option(
    "--masks", type=_FOLDER, help="Folder of PNG masks, not zero where the content is, or SAM JSON."
)
@click.option("--npz", type=_FILE, help="NumPy archive: keys and boxes, or an array a key.")
@click.option(
    "--several",
    callback=_several,
    metavar="union|largest|keep:K|top:K",
    default="union",
    show_default=True,
    help="An image's several boxes: their union, the largest, or the K largest or of the highest "
    "scores, of which the loaders draw one each epoch.",
)
@click.option("--min-score", type=float, help="Leave out boxes of lower scores.")
@click.option("--pixels", is_flag=True, help="Numbers of --csv and --npz are pixels of the images.")
@click.option(
    "--upright",
    is_flag=True,
    help="Boxes were drawn on images turned upright by their EXIF orientation, as most tools show "
    "them.  [default: on the stored pixels]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def import_(
    source: str,
    out: str,
    images: Path | None,
    radius: float | None,
    several: str,
    min_score: float | None,
    pixels: bool,
    upright: bool,
    as_json: bool,
    **forms: Path | None,
) -> None:
    """Make the box set OUT of boxes that another tool drew on the images of SOURCE.

    Annotations are joined to images by key, and where no key is equal by file name if it is
    unique. Images
    without a box get the whole image and the status empty. docs/import-export.md says the rest.

    \b
    Example:
      ccrop boxes import data/photos boxes/coco --coco boxes.json
    """
    chosen = [(form, path) for form, path in forms.items() if path is not None]
    if len(chosen) != 1:
        options = ", ".join(f"--{form.replace('_', '-')}" for form in sorted(forms))
        raise click.UsageError(f"give exactly one of {options}.")
    ((form, path),) = chosen
    if pixels and form not in ("csv", "npz"):
        raise click.UsageError(f"--pixels is for --csv and --npz: --{form} says itself what it is.")
    if images and form != "coco":
        raise click.UsageError("--images is for --coco.")
    if radius and form != "csv":
        raise click.UsageError("--radius is for --csv with points x, y.")

    from ccrop_pipeline.exchange import Several, import_boxes

    from .boxes_info import show, summary
    from .progress import Counter
    from .sources import open_source

    opened = open_source(source)
    annotations = _read(form, path, images=images, radius=radius, pixels=pixels)
    total = len(opened.index()) if opened.random_access else None
    with Counter("boxes", total) as observer:
        box_set, counts = import_boxes(
            opened,
            annotations,
            out,
            several=Several(several),
            min_score=min_score,
            upright=upright,
            observer=observer,
        )
    if as_json:
        print_json(summary(box_set) | {"import": vars(counts)})
        return
    show(box_set, as_json)
    for name, value in _lines(counts):
        print_line(f"{name:<12}{value}")


def _read(
    form: str, path: Path, *, images: Path | None, radius: float | None, pixels: bool
) -> "Annotations":
    from ccrop_pipeline import exchange

    readers: dict[str, Callable[[Path], Annotations]] = {
        "coco": partial(exchange.read_coco, images=images),
        "csv": partial(exchange.read_csv, pixels=pixels, radius=radius),
        "cvat": exchange.read_cvat,
        "fiftyone": exchange.read_fiftyone,
        "label_studio": exchange.read_label_studio,
        "masks": exchange.read_masks,
        "npz": partial(exchange.read_npz, pixels=pixels),
        "open_images": exchange.read_open_images,
        "yolo": exchange.read_yolo,
    }
    return readers[form](path)


def _lines(counts: "ImportCounts") -> list[tuple[str, str]]:
    lines = [
        (
            "matched",
            f"{counted(counts.matched, 'image')}; {counts.unannotated:,} without an annotation, "
            f"{counted(counts.without_image, 'annotation')} without an image",
        ),
        (
            "taken",
            f"{counted(counts.boxes, 'box')}, {counts.clipped:,} of them clipped at the border; "
            f"{counts.dropped:,} without area dropped",
        ),
    ]
    if counts.below:
        lines.append(("below", f"{counted(counts.below, 'box')} of lower scores left out"))
    if counts.unlisted:
        lines.append(
            ("unlisted", f"{counted(counts.unlisted, 'annotation')} of images not in the file")
        )
    if counts.misfits:
        lines.append(
            (
                "misfits",
                f"{counted(counts.misfits, 'image')} of another shape than annotated, perhaps "
                "turned by EXIF: the full box (--upright takes such boxes)",
            )
        )
    return lines
