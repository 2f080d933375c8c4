"""`ccrop boxes export`."""

from pathlib import Path

import click

from ccrop_pipeline.errors import counted

from .option_types import LocalPath
from .printing import print_json, print_line


@click.command("export")
@click.argument("boxes")
@click.argument("out", type=LocalPath())
@click.option(
    "--form",
    required=True,
    type=click.Choice(["coco", "hf", "parquet", "webdataset"]),
    help="coco: one file OUT. hf: metadata.parquet for Hugging Face datasets, in the folder OUT of "
    "the images. parquet and webdataset: a box set in that form in the folder OUT.",
)
@click.option(
    "--suffix",
    default="",
    help="For coco and hf: put behind each key to make its file_name, such as .jpg.",
)
@click.option(
    "--upright",
    is_flag=True,
    help="For coco and hf: boxes of images turned upright by their EXIF orientation, for readers "
    "that turn them, as most do.  [default: of the stored pixels]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    boxes: str, out: Path, form: str, suffix: str, upright: bool, overwrite: bool, as_json: bool
) -> None:
    """Write the box set BOXES as OUT for other tools.

    Images whose box is no find have no object in coco and hf. Where a box set keeps several boxes
    an image, each is written. CSV and NPZ take two lines of pyarrow: docs/import-export.md.

    \b
    Example:
      ccrop boxes export boxes/first boxes.json --form coco --suffix .jpg
    """
    folder = form in ("parquet", "webdataset")
    if folder and overwrite:
        raise click.UsageError(f"--overwrite is for single files, not for --form {form}.")
    if folder and upright:
        raise click.UsageError(
            "--upright is for coco and hf: box sets are of the stored pixels, and have the "
            "orientation of each image beside its box."
        )
    from ccrop_pipeline.boxset import BoxSet, convert
    from ccrop_pipeline.exchange import export_file

    if folder:
        rows, written = convert(boxes, out, form=form).rows, out
    else:
        box_set = BoxSet.open(boxes)
        rows = box_set.manifest.rows
        written = export_file(
            box_set, out, form, suffix=suffix, upright=upright, overwrite=overwrite
        )
    if as_json:
        print_json({"images": rows, "form": form, "path": str(written)})
    else:
        print_line(f"{counted(rows, 'image')} in {written} ({form})")
