"""`ccrop boxes report`."""

from pathlib import Path

import click

from .option_types import LocalPath
from .printing import note_page, print_line


@click.command("report")
@click.argument("boxes")
@click.argument("source")
@click.argument("out", type=LocalPath(dir_okay=False), required=False)
@click.option("--against", metavar="BOXES2", help="Another box set to compare with.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
def report(boxes: str, source: str, out: Path | None, against: str | None, overwrite: bool) -> None:
    """Write a page about BOXES and the images of SOURCE: one HTML file that opens from disk.

    It has what the audit finds, figures of all boxes, and up to 200 images with heatmap, box and
    views, drawn anew for any other threshold. OUT is the name of BOXES with .html, here, unless it
    is given.

    \b
    Example:
      ccrop boxes report boxes/first data/photos
    """
    from ccrop_pipeline.report import report_boxes

    from .sources import open_source

    target = out or Path(f"{Path(boxes).resolve().name}.html")
    written = report_boxes(boxes, open_source(source), target, against=against, overwrite=overwrite)
    print_line(f"report  {written} ({written.stat().st_size:,} bytes)")
    note_page(written)
