"""`ccrop embed`."""

from typing import TYPE_CHECKING, Any

import click

from ccrop_pipeline.errors import counted

from .boxes_compute import batch_size_option, threads_option
from .model_options import MODEL_OPTIONS, expect_model, model_options, open_for_features
from .printing import note, print_json, print_line
from .rank_options import rank_options

if TYPE_CHECKING:
    from ccrop_pipeline.export import Embeddings


@click.command("embed")
@click.argument("model")
@click.argument("source")
@click.argument("out")
@model_options
@batch_size_option
@threads_option
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of the numbers; float16 takes half of the room.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace embeddings in OUT once the new ones are complete."
)
@rank_options("torchrun or SLURM")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def embed(model: str, source: str, out: str, as_json: bool, **options: Any) -> None:
    """Write the features of every image of SOURCE by MODEL as Parquet into the folder OUT.

    MODEL is a run or checkpoint of `ccrop train`, torchvision:NAME, timm:NAME, or another of
    docs/models.md. Each row has a key, a label where there is one, and as embedding the mean over
    the cells of the model's last feature map, which is what `ccrop probe` classifies. A command
    that was stopped is resumed by the same command, and several processes share the shards out, as
    they do for `ccrop boxes compute`. OUT may be an address that fsspec knows. See docs/export.md.

    \b
    Example:
      ccrop embed runs/first data/photos embeddings/first
    """
    from ccrop_pipeline.base import Ranks

    ranks = Ranks.from_environment(options["rank"], options["world_size"], array=True)
    expect_model(model, options["weights"])
    from .sources import open_source

    opened = open_source(source)
    from ccrop_pipeline.export.embeddings import embed as embed_images

    from .compute_progress import ComputeProgress, count

    names = [name for name in MODEL_OPTIONS if name != "model"]
    encoder = open_for_features(model, {name: options[name] for name in names})
    prefix = f"rank {ranks.rank}: " if ranks.world_size > 1 else ""
    with ComputeProgress(count(opened, ranks.world_size), prefix, what="embeddings") as progress:
        found = embed_images(
            encoder,
            opened,
            out,
            **{name: options[name] for name in ("batch_size", "threads", "dtype", "overwrite")},
            ranks=ranks,
            observer=progress,
        )
    progress.summary()
    if found is None:
        note(f"{prefix}this portion is done; others are still at work on {out}")
    if as_json:
        print_json(_record(out, found))
    elif found:
        print_line(_sentence(found))


def _record(out: str, found: "Embeddings | None") -> dict[str, Any]:
    if found is None:
        return {"folder": out, "complete": False}
    return {"complete": True, **vars(found), "folder": out}


def _sentence(found: "Embeddings") -> str:
    from ccrop_pipeline.export.embedding_files import DATA

    made_by = found.made_by
    encoder = made_by["encoder"]
    left_out = f"; {counted(len(found.unreadable), 'image')} cannot be decoded"
    return (
        f"{found.folder}/{DATA}: {counted(found.images, 'embedding')} of "
        f"{made_by['channels']:,} numbers "
        f"({made_by['dtype']}) by {encoder['name']}, layer {encoder['layer']}"
        + (left_out if found.unreadable else "")
    )
