"""`ccrop boxes centre` and `ccrop boxes full`."""

from typing import Literal

import click


@click.command("centre")
@click.argument("source")
@click.argument("out")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def centre(source: str, out: str, as_json: bool) -> None:
    """Give every image of SOURCE the box (.25, .25, .75, .75), as SimCCrop does, in OUT.

    What most images have is in their middle, and this box costs no computation: what a model's
    boxes are worth shows beside it.

    \b
    Example:
      ccrop boxes centre data/photos boxes/centre
    """
    _fixed(source, out, "centre", as_json)


@click.command("full")
@click.argument("source")
@click.argument("out")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def full(source: str, out: str, as_json: bool) -> None:
    """Give every image of SOURCE the whole image as its box, in OUT.

    Crops then go anywhere; only the distribution of their centres is left of ContrastiveCrop.

    \b
    Example:
      ccrop boxes full data/photos boxes/full
    """
    _fixed(source, out, "full", as_json)


def _fixed(source: str, out: str, name: Literal["centre", "full"], as_json: bool) -> None:
    from ccrop_pipeline.exchange import fixed_boxes

    from .boxes_info import show
    from .progress import Counter
    from .sources import open_source

    opened = open_source(source)
    total = len(opened.index()) if opened.random_access else None
    with Counter("boxes", total) as observer:
        box_set = fixed_boxes(opened, out, name, observer=observer)
    show(box_set, as_json)
