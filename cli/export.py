"""`ccrop export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccrop_pipeline.errors import counted

from .model_options import expect_model
from .option_types import LocalPath
from .printing import note, print_as_is, print_json

if TYPE_CHECKING:
    from ccrop_pipeline.export.backbone import ExportForm
    from ccrop_pipeline.models.own_checkpoints import Which


@click.command("export")
@click.argument("run")
@click.argument("out", type=LocalPath())
@click.option(
    "--form",
    type=click.Choice(["torchvision", "timm", "safetensors", "detectron2", "onnx"]),
    default=None,
    help="Whose names the weights have, or onnx.  [default: torchvision's; in a safetensors file "
    "if OUT ends in .safetensors; onnx if it ends in .onnx]",
)
@click.option(
    "--encoder",
    type=click.Choice(["online", "momentum"]),
    default="online",
    show_default=True,
    help="Which encoder, of methods that have two.",
)
@click.option(
    "--input-size",
    type=click.IntRange(8, 4096),
    help="With onnx: side of the images in pixels.  [default: what the model expects]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def export(
    run: str,
    out: Path,
    form: "ExportForm | None",
    encoder: "Which",
    input_size: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the backbone of RUN (or of a checkpoint) to the file OUT for other programs.

    The file is read back into the network of its form, whose outputs must be those of the
    backbone. The lines of Python that use it are printed. As ONNX goes any model that
    `ccrop embed` takes, with the pooled features as its output. See docs/export.md.

    \b
    Example:
      ccrop export runs/first backbone.safetensors
    """
    expect_model(run)
    from ccrop_pipeline.export import export_backbone

    done = export_backbone(
        run, out, form=form, encoder=encoder, input_size=input_size, overwrite=overwrite
    )
    checked = (
        "names and weights read back"
        if done.difference is None
        else f"outputs of the loaded network differ by {done.difference:.1g} of the greatest"
    )
    after = "" if done.epoch is None else f" after epoch {done.epoch}"
    note(
        f"{done.path}: {encoder} encoder {done.backbone}{after}, "
        f"{counted(done.weights, 'tensor')}, form {done.form}; checked: {checked}"
    )
    if as_json:
        print_json({**vars(done), "path": str(done.path), "encoder": encoder})
        return
    for line in done.lines:
        print_as_is(line)
