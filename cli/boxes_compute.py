"""`ccrop boxes compute`."""

import os
from pathlib import Path

import click


@click.command("compute")
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--model",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Folder of a run of `ccrop train`, or one of its checkpoints.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, max_open=True),
    default=None,
    help="Heatmap cells strictly above it are content.  [default: as in the recipe of the run]",
)
@click.option(
    "--input-size",
    type=click.IntRange(8),
    default=None,
    help="Side in pixels of the images that the encoder sees.  [default: as in the recipe]",
)
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True)
@click.option(
    "--form",
    type=click.Choice(["parquet", "webdataset"]),
    default="parquet",
    show_default=True,
    help="Form of the box shards.",
)
@click.option("--no-heatmaps", is_flag=True, help="Keep boxes only.")
@click.option("--overwrite", is_flag=True, help="Replace a box set of something else in OUT.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=os.cpu_count() or 1,
    show_default="all cores",
    help="Decoding threads.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def compute(
    source: str,
    out: Path,
    model: Path,
    threshold: float | None,
    input_size: int | None,
    batch_size: int,
    form: str,
    no_heatmaps: bool,
    overwrite: bool,
    device: str,
    threads: int,
    as_json: bool,
) -> None:
    """Compute the box of every image of SOURCE into the box set OUT.

    A run that was stopped is taken up by the same command: complete shards are kept.

    \b
    Example:
      ccrop boxes compute data/photos boxes/first --model runs/first
    """
    from dataclasses import replace

    from ccrop_pipeline.compute import ComputeSettings, compute_boxes
    from ccrop_pipeline.train import load_checkpoint

    from .boxes_info import show, warn_if_useless
    from .opening import open_any, open_device
    from .progress import counter

    opened = open_any(source)
    checkpoint = load_checkpoint(model)
    encoder = checkpoint.encoder(open_device(device))
    settings = ComputeSettings(
        threshold=checkpoint.recipe.boxes.threshold if threshold is None else threshold,
        batch_size=batch_size,
        threads=threads,
        heatmaps=not no_heatmaps,
        form=form,
    )
    if input_size is not None:
        encoder = replace(encoder, input_size=input_size)
    total = len(opened.index()) if opened.random_access else None
    with counter("boxes", total) as advance:
        box_set = compute_boxes(
            opened, encoder, out, settings, lambda _shard, images: advance(images), overwrite
        )
    show(box_set, as_json)
    warn_if_useless(box_set)
