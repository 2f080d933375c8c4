"""`ccrop boxes export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccrop_pipeline.errors import counted

from .option_types import LocalPath
from .printing import print_json, print_line, warn

if TYPE_CHECKING:
    from ccrop_pipeline.boxset import BoxSet

_BOX_SETS = ("parquet", "webdataset")
_OURS = (*_BOX_SETS, "croissant")
_TOOLS = ("coco", "cvat", "fiftyone", "hf", "label-studio", "open-images", "yolo")
_TURN = ("cvat", "fiftyone", "label-studio", "yolo")  # tools that show and read images upright


@click.command("export")
@click.argument("boxes")
@click.argument("out", type=LocalPath())
@click.option(
    "--form",
    required=True,
    type=click.Choice([*_TOOLS, *_OURS]),
    help="coco, cvat (for images 1.1), fiftyone (detections as JSON), label-studio and open-images "
    "(CSV): one file OUT. yolo: a label file an image in the folder OUT. hf: metadata.parquet for "
    "Hugging Face datasets, in the folder OUT of the images. parquet and webdataset: a box set in "
    "that form in the folder OUT. croissant: croissant.json for data catalogues, in the folder OUT "
    "of the box set itself.",
)
@click.option(
    "--suffix",
    default="",
    help="Put behind keys without an image extension, as those of tars, to make the file names of "
    "their images, such as .jpg.",
)
@click.option(
    "--prefix",
    help="For label-studio: put before each file name to make the address of its image.  "
    "[default: /data/local-files/?d=]",
)
@click.option(
    "--upright",
    is_flag=True,
    help="Boxes of images turned upright by their EXIF orientation, for tools that turn them, as "
    "most do.  [default: of the stored pixels]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    boxes: str,
    out: Path,
    form: str,
    suffix: str,
    prefix: str | None,
    upright: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the box set BOXES as OUT for other tools.

    Images whose box is no find have no object there. Where a box set keeps several boxes an image,
    each is written. CSV and NPZ take two lines of pyarrow: docs/import-export.md.

    \b
    Example:
      ccrop boxes export boxes/first boxes.json --form coco --suffix .jpg
    """
    folder = form in (*_BOX_SETS, "yolo")
    if folder and overwrite:
        raise click.UsageError(f"--overwrite is for single files, not for --form {form}.")
    if form in _OURS and (upright or suffix):
        raise click.UsageError(
            "--upright and --suffix are for other tools: box sets are of the stored pixels, and "
            "have the key and orientation of each image beside its box."
        )
    if prefix is not None and form != "label-studio":
        raise click.UsageError("--prefix is for --form label-studio.")
    from ccrop_pipeline.boxset import BoxSet, convert
    from ccrop_pipeline.exchange import export_boxes

    if form in _BOX_SETS:
        manifest, written = convert(boxes, out, form=form), out
    else:
        box_set = BoxSet.open(boxes)
        manifest = box_set.manifest
        written = export_boxes(
            box_set,
            out,
            form,
            suffix=suffix,
            prefix=prefix,
            upright=upright,
            overwrite=overwrite,
        )
        if form in _TURN and not upright:
            _note_turned(box_set, form)
    counts = manifest.statistics.counts
    if as_json:
        found = {"images": manifest.rows, "counts": counts, "form": form, "path": str(written)}
        print_json(found)
        return
    print_line(f"{counted(manifest.rows, 'image')} in {written} ({form})")
    lacking = {status: count for status, count in counts.items() if status != "ok" and count}
    if lacking and form in _TOOLS:
        which = ", ".join(f"{count:,} {status}" for status, count in lacking.items())
        print_line(f"without a box: {which}")


def _note_turned(box_set: "BoxSet", form: str) -> None:
    turned = sum(int((table.orientation > 1).sum()) for _, table in box_set.tables(heatmaps=False))
    if turned:
        warn(
            f"{counted(turned, 'image')} of these have an EXIF orientation, by which {form} turns "
            "them, and the boxes are of the stored pixels. Write them with --upright."
        )
