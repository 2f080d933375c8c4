"""`ccrop boxes diff`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ccrop_pipeline.errors import counted

from .boxes_audit import bars
from .printing import print_json, print_line

if TYPE_CHECKING:
    from ccrop_pipeline.report import BoxDiff


@click.command("diff")
@click.argument("before")
@click.argument("after")
@click.option(
    "--movers",
    metavar="K",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Name the K images whose boxes have the least in common.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def diff(before: str, after: str, movers: int, as_json: bool) -> None:
    """Compare the box sets BEFORE and AFTER, image by image.

    Images are found by their key, however they are cut into shards. IoU is the intersection over
    union of the two boxes of an image: 1 where they are the same, 0 where they do not touch.

    \b
    Example:
      ccrop boxes diff boxes/first boxes/tighter
    """
    from ccrop_pipeline.boxset import BoxSet
    from ccrop_pipeline.report import diff as compare

    found = compare(BoxSet.open(before), BoxSet.open(after), movers)
    if as_json:
        print_json(asdict(found))
        return
    for line in _lines(found):
        print_line(line.rstrip())


def _lines(found: "BoxDiff") -> list[str]:
    lines = [
        f"images      {found.both:,} in both, {found.only_before:,} in the first only, "
        f"{found.only_after:,} in the second only"
    ]
    if found.examples:
        lines.append(f"            in one only: {', '.join(found.examples)}")
    if not found.both:
        return lines
    lines += [
        f"changed     {counted(found.images_changed, 'image')} with other bytes",
        f"boxes       {found.identical:,} identical, mean IoU {found.mean_iou:.3f}",
        "deciles     IoU of the images at 0 %, 10 %, ... 100 %: "
        f"{' '.join(f'{value:.2f}' for value in found.deciles)}",
        *bars(found.histogram, "IoU "),
    ]
    lines += [f"status      {name}: {count:,}" for name, count in found.status_changes.items()]
    if found.movers:
        box = "x_min y_min x_max y_max"
        lines.append(f"moved       IoU    {box}  ->  {box}  key")
    for mover in found.movers:
        one, other = (" ".join(f"{edge:.3f}" for edge in b) for b in (mover.before, mover.after))
        lines.append(f"            {mover.iou:.3f}  {one}  ->  {other}  {mover.key}")
    return lines
