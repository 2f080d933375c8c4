"""`ccrop boxes fit-linear`."""

from pathlib import Path
from typing import Any, Literal

import click

from ccrop_pipeline.errors import counted

from .model_options import MODEL_HELP, expect_model, model_options, open_model
from .option_types import LocalPath
from .printing import note, print_json, print_line


@click.command("fit-linear")
@click.argument("boxes")
@click.argument("source")
@click.argument("out", type=LocalPath())
@click.option("--model", required=True, metavar="MODEL", help=MODEL_HELP)
@model_options
@click.option(
    "--target",
    type=click.Choice(["boxes", "heatmaps"]),
    default="boxes",
    show_default=True,
    help="What objects are: the boxes, or where stored heatmaps (as masks are) are above 0.5.",
)
@click.option(
    "--on",
    type=click.Choice(["keys", "layer"]),
    default=None,
    help="What the head takes.  [default: keys of a transformer, else the features of the layer]",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Most images, spread over the set.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def fit_linear(
    boxes: str,
    source: str,
    out: Path,
    model: str,
    target: Literal["boxes", "heatmaps"],
    on: Literal["keys", "layer"] | None,
    images: int,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit the head of `--map linear:OUT` to the boxes BOXES of the images in SOURCE.

    A logistic regression tells the cells inside of boxes from the others; the same input gives the
    same file, OUT, which is safetensors. Boxes of a few hundred images are enough, drawn by hand or
    found by another map.

    \b
    Example:
      ccrop boxes fit-linear boxes/coco data/photos head.safetensors --model runs/first
    """
    expect_model(model, options["weights"])
    from ccrop_pipeline.boxset import BoxSet

    from .sources import open_source

    BoxSet.open(boxes)
    opened = open_source(source)
    from ccrop_pipeline.compute.linear_fit import fit_linear as fit
    from ccrop_pipeline.models.head_files import check_head_target, save_head

    from .progress import Counter

    check_head_target(out)
    encoder = open_model(model, **options, say=note)
    with Counter("images", images) as observer:
        found = fit(boxes, opened, encoder, target=target, on=on, images=images, observer=observer)
    save_head(found.head, out, overwrite=overwrite)
    if as_json:
        figures = {name: value for name, value in vars(found).items() if name != "head"}
        print_json({"path": str(out), "on": found.head.on, **figures})
        return
    print_line(f"{out}: {len(found.head.weight) + 1} numbers on the {found.head.on}")
    print_line(
        f"{counted(found.images, 'image')}, {found.cells:,} cells, {found.objects:.1%} of them of "
        f"objects; {found.agreement:.1%} on the right side of 0.5 (with one answer for all: "
        f"{found.base_rate:.1%})"
    )
