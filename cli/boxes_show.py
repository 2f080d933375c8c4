"""`ccrop boxes show`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ccrop_pipeline.errors import counted

from . import pictures
from .option_types import LocalPath
from .printing import print_json, print_line, results
from .sources import open_source

if TYPE_CHECKING:
    from ccrop_pipeline.report import Pick

_MOST = 200


@click.command("show")
@click.argument("boxes")
@click.argument("source")
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option(
    "--pick",
    type=click.Choice(["random", "smallest", "largest", "empty", "moved"]),
    default="random",
    show_default=True,
    help="Images to show where no KEY is given: any, those with the smallest or largest boxes, "
    "those without content, or those whose box has the least in common with --against.",
)
@click.option(
    "--count",
    metavar="N",
    type=click.IntRange(1, _MOST),
    default=12,
    show_default=True,
    help="Number of images to pick.",
)
@click.option("--against", metavar="BOXES2", help="Draw the boxes of this box set as well.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of --pick.")
@click.option(
    "--out",
    metavar="FILE",
    type=LocalPath(dir_okay=False),
    help="Write the picture as this PNG.  [default: drawn in kitty, iTerm2, WezTerm, Ghostty, foot "
    "and mlterm; elsewhere the name of BOXES with .png, in this folder]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print path and keys as JSON.")
@click.pass_context
def show(
    context: click.Context,
    boxes: str,
    source: str,
    keys: tuple[str, ...],
    pick: "Pick",
    count: int,
    against: str | None,
    seed: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Draw images of SOURCE with their boxes in BOXES: those of each KEY, or some that are picked.

    For each image: it with its box (and each of several), its heatmap, and two views as training
    would cut them. The same command draws the same picture.

    \b
    Example:
      ccrop boxes show boxes/first data/photos --pick smallest
    """
    if keys and context.get_parameter_source("pick") is not ParameterSource.DEFAULT:
        raise click.UsageError("--pick chooses images where no KEY is given: leave one out.")
    if pick == "moved" and against is None:
        raise click.UsageError("--pick moved needs --against BOXES2, the boxes to compare with.")
    if out is not None and out.suffix.lower() != ".png":
        raise click.UsageError(f"--out is {str(out)!r}, and a PNG is written: let it end in .png.")
    from ccrop_pipeline.base.files import output_file
    from ccrop_pipeline.boxset import BoxSet
    from ccrop_pipeline.report import pick_keys
    from ccrop_pipeline.report import show as picture_of

    box_set, other = BoxSet.open(boxes), None if against is None else BoxSet.open(against)
    images = open_source(source)
    shown = keys or pick_keys(box_set, pick, count, against=other, seed=seed)
    picture = picture_of(box_set, images, shown, against=other)
    stream = results()
    how = pictures.protocol(os.environ) if stream.isatty() and not as_json else None
    path = out
    if path is None and not how:
        path = Path(f"{Path(boxes.rstrip('/')).resolve().name or 'boxes'}.png")
    if path:
        with output_file(path, overwrite=overwrite) as aside:
            picture.save(aside, "PNG")
    if how:
        stream.write(pictures.draw(picture, how))
        stream.flush()
    if as_json:
        print_json({"path": str(path), "keys": list(shown)})
    elif path:
        print_line(f"{counted(len(shown), 'image')} in {path}")
