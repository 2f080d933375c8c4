"""`ccrop data pack`."""

from pathlib import Path
from typing import Literal

import click

from ccrop_pipeline.errors import counted

from .option_types import LocalPath
from .printing import print_json, print_line


@click.command("pack")
@click.argument("source")
@click.argument("out", type=LocalPath())
@click.option("--prefix", default="data", show_default=True, help="Start of the shard names.")
@click.option(
    "--max-images",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Most images a shard.",
)
@click.option(
    "--keys",
    type=click.Choice(["key", "shard/key"]),
    default="key",
    show_default=True,
    help="Keys as they are, or after the name of their shard where they start again in each.",
)
@click.option("--follow-links", is_flag=True, help="Follow links out of a folder of images.")
@click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    default="train",
    show_default=True,
    help="Split of a torchvision data set.",
)
@click.option(
    "--root",
    type=LocalPath(),
    default=Path("~/.cache/ccrop"),
    show_default=True,
    help="Where torchvision keeps its data sets.",
)
@click.option("--no-download", is_flag=True, help="Do not download a torchvision data set.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def pack(
    source: str,
    out: Path,
    prefix: str,
    max_images: int,
    keys: Literal["key", "shard/key"],
    follow_links: bool,
    split: Literal["train", "test"],
    root: Path,
    no_download: bool,
    as_json: bool,
) -> None:
    """Copy the images of SOURCE into tar shards in the new folder OUT.

    SOURCE is an image folder, Parquet in the Hugging Face image layout, tar shards, or the name
    of a torchvision data set (cifar10, stl10, ...). Image bytes, labels, order and JSON
    annotations are kept.

    \b
    Example:
      ccrop data pack photos data/photos
    """
    from ccrop_pipeline.images import pack as pack_source

    from .compute_progress import count
    from .progress import Counter
    from .sources import open_source

    opened = open_source(
        source, split=split, root=root, download=not no_download, follow_links=follow_links
    )
    with Counter("packing", count(opened)) as observer:
        summary = pack_source(
            opened,
            out,
            prefix=prefix,
            keys=keys,
            max_images=max_images,
            observer=observer,
        )
    if as_json:
        result = {"out": str(out), "shards": list(summary.shards), "images": summary.images}
        print_json(result)
    else:
        known = ", packed before and complete" if summary.was_there else ""
        print_line(
            f"{counted(summary.images, 'image')} in {counted(len(summary.shards), 'shard')} in "
            f"{out}{known}"
        )
