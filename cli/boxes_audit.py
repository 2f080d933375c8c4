"""`ccrop boxes audit`, and the same at the end of commands that make boxes."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ccrop_pipeline.errors import counted

from .printing import note, print_json, print_line, warn

if TYPE_CHECKING:
    from ccrop_pipeline.boxset import BoxSet
    from ccrop_pipeline.report import Audit

_BAR = 40


@click.command("audit")
@click.argument("boxes")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def audit(boxes: str, as_json: bool) -> None:
    """Say whether the boxes in BOXES carry anything of their images, and what crops they make.

    The verdict comes first: worth using, carry little or nothing of the image, or cannot tell.
    Where they carry little, a warning on stderr says why and what would help.

    \b
    Example:
      ccrop boxes audit boxes/first
    """
    from ccrop_pipeline.boxset import BoxSet
    from ccrop_pipeline.report import audit as judge

    from .boxes_info import unreadable_keys, unreadable_line

    box_set = BoxSet.open(boxes)
    keys = unreadable_keys(box_set)
    found = judge(box_set)
    if as_json:
        print_json(asdict(found) | {"unreadable_keys": keys})
        return
    _show(found)
    _warn(found, box_set)
    if keys:
        count = box_set.manifest.statistics.counts["unreadable"]
        print_line(f"unreadable  {unreadable_line(keys, count, boxes)}")


def show_result(box_set: "BoxSet", as_json: bool) -> None:
    """End a command that made boxes: summary and audit on stdout, the warning on stderr.

    Args:
        box_set: What was made.
        as_json: Whether stdout gets the summary as JSON and nothing else.
    """
    from ccrop_pipeline.report import audit as judge

    from .boxes_info import show

    show(box_set, as_json)
    found = judge(box_set)
    if not as_json:
        _show(found)
    _warn(found, box_set)


def warn_if_useless(box_set: "BoxSet") -> None:
    """Print the warning of an audit on stderr, if there is one."""
    from ccrop_pipeline.report import audit as judge

    _warn(judge(box_set), box_set)


def bars(counts: Iterable[int], label: str) -> list[str]:
    """Return the lines of a histogram over ten equal parts of [0, 1]."""
    counts = list(counts)
    most, total = max(1, *counts), max(1, sum(counts))
    return [
        f"{label} up to {number / 10:4.0%}  {count / total:6.1%}  " + "#" * (_BAR * count // most)
        for number, count in enumerate(counts, start=1)
    ]


def _show(found: "Audit") -> None:
    if not found.images:
        print_line("no boxes")
        return
    print_line(f"verdict     {found.verdict}")
    if found.verdict in ("worth using", "cannot tell"):
        print_line(f"because     {found.reason}")
    for line in _figures(found):
        print_line(line)
    for line in bars(found.area_histogram, "area"):
        print_line(line.rstrip())


def _figures(found: "Audit") -> Iterator[str]:
    if by := found.agreement:
        yield (
            f"agreement   kappa {by.kappa:.2f} (1: the same boxes, 0: chance), freedom "
            f"{by.freedom:.2f}, on {counted(by.images, 'image')}"
        )
    if found.spread:
        edges = ", ".join(f"{edge:.2f}" for edge in found.spread.median_box)
        yield (
            f"spread      IoU {found.spread.median_iou:.2f} with the median box ({edges}), centres "
            f"{found.spread.centre_spread:.2f}; share of the image's own {found.own:.2f}"
        )
    if found.heat:
        yield f"heat        {found.heat.position_bias:.2f} correlated with the mean heatmap"
    yield (
        f"areas       mean {found.mean_area:.1%}, full {found.full:.1%}, over 90 % of the "
        f"image {found.nearly_full:.1%}, empty {found.empty:.1%}, "
        f"unreadable {found.unreadable:.1%}"
    )
    if crops := found.windows:
        boxed, plain = crops.boxed, crops.plain
        yield (
            f"crops       {crops.rule}, alpha {crops.alpha:g} (plain random crops): IoU of a pair "
            f"{boxed.pair_iou:.2f} ({plain.pair_iou:.2f}), share shown of the box {boxed.box:.2f} "
            f"({plain.box:.2f}), of the middle {boxed.middle:.2f} ({plain.middle:.2f})"
        )
    if found.cost:
        yield f"cost        {found.cost}"


def _warn(found: "Audit", box_set: "BoxSet") -> None:
    if found.warning:
        warn(_flags(found.warning))
    if remedy := found.remedy:
        note(f"ccrop boxes rethreshold {box_set.folder} OUT --{remedy.name} {remedy.value:g}")


def _flags(text: str) -> str:
    return re.sub(r"`(map|threshold|mass|model)`", r"--\1", text).replace("`source`", "SOURCE")
