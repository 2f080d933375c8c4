"""`ccrop export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccrop_pipeline.errors import counted

from .model_options import expect_model
from .option_types import LocalPath
from .printing import note, print_json, print_line

if TYPE_CHECKING:
    from ccrop_pipeline.export.backbone import ExportForm
    from ccrop_pipeline.models.own_checkpoints import Which


@click.command("export")
@click.argument("run", type=LocalPath(exists=True))
@click.argument("out", type=LocalPath())
@click.option(
    "--form",
    type=click.Choice(["torchvision", "timm", "safetensors", "detectron2"]),
    default=None,
    help="Whose names the weights have.  [default: torchvision's; in a safetensors file if OUT "
    "ends in .safetensors]",
)
@click.option(
    "--encoder",
    type=click.Choice(["online", "momentum"]),
    default="online",
    show_default=True,
    help="Which encoder, of methods that have two.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def export(
    run: Path,
    out: Path,
    form: "ExportForm | None",
    encoder: "Which",
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the backbone of RUN (or of a checkpoint) to the file OUT for other programs.

    The file is read back into the network of its form, whose outputs must be those of the
    backbone. The lines of Python that use it are printed. See docs/export.md.

    \b
    Example:
      ccrop export runs/first backbone.safetensors
    """
    expect_model(str(run))
    from ccrop_pipeline.export import export_backbone

    done = export_backbone(run, out, form=form, encoder=encoder, overwrite=overwrite)
    checked = (
        "names and weights read back"
        if done.difference is None
        else f"outputs of the loaded network differ by {done.difference:.1g} of the greatest"
    )
    note(
        f"{done.path}: {encoder} encoder {done.backbone} after epoch {done.epoch}, "
        f"{counted(done.weights, 'tensor')}, form {done.form}; checked: {checked}"
    )
    if as_json:
        print_json({**vars(done), "path": str(done.path), "encoder": encoder})
        return
    for line in done.lines:
        print_line(line)
