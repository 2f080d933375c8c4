"""`ccrop report`."""

from pathlib import Path

import click

from .option_types import LocalPath
from .printing import note_page, print_line


@click.command("report")
@click.argument("run", type=LocalPath())
@click.argument("out", type=LocalPath(dir_okay=False), required=False)
@click.option(
    "--source",
    metavar="SOURCE",
    help="Where the images are.  [default: as the run found them]",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
def report(run: Path, out: Path | None, source: str | None, overwrite: bool) -> dict[str, str]:
    """Write a page about RUN: one HTML file that opens from disk.

    It has what is worth knowing first, curves, where the time went, how far boxes moved from
    refresh to refresh, and images with their boxes over the refreshes. RUN may still be at work.
    OUT is the name of RUN with -run.html, here, unless it is given.

    \b
    Example:
      ccrop report runs/first
    """
    from ccrop_pipeline.report import report_run
    from ccrop_pipeline.training import Run

    from .sources import open_source

    target = out or Path(f"{run.resolve().name}-run.html")
    images = open_source(source) if source else None
    written = report_run(run, target, source=images, overwrite=overwrite)
    print_line(f"report  {written} ({written.stat().st_size:,} bytes)")
    note_page(written)
    return {"source": source or Run(run).source()}
