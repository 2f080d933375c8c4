"""`ccrop boxes audit`, and the same at the end of commands that make boxes."""

import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .printing import note, print_json, print_line, warn

if TYPE_CHECKING:
    from ccrop_pipeline.boxset import BoxSet
    from ccrop_pipeline.report import Audit

_BAR = 40


@click.command("audit")
@click.argument("boxes")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def audit(boxes: str, as_json: bool) -> None:
    """Say whether the boxes in BOXES can change anything: how much of their image they cover.

    Where most are nearly the whole image, a warning on stderr says what would help.

    \b
    Example:
      ccrop boxes audit boxes/first
    """
    from ccrop_pipeline.boxset import BoxSet
    from ccrop_pipeline.report import audit as judge

    from .boxes_info import unreadable_keys, unreadable_line

    box_set = BoxSet.open(boxes)
    keys = unreadable_keys(box_set)
    if as_json:
        print_json(asdict(judge(box_set)) | {"unreadable_keys": keys})
        return
    show_audit(box_set)
    if keys:
        count = box_set.manifest.statistics.counts["unreadable"]
        print_line(f"unreadable  {unreadable_line(keys, count, boxes)}")


def show_result(box_set: "BoxSet", as_json: bool) -> None:
    """End a command that made boxes: summary and audit on stdout, the warning on stderr.

    Args:
        box_set: What was made.
        as_json: Whether stdout gets the summary as JSON and nothing else.
    """
    from .boxes_info import show

    show(box_set, as_json)
    if as_json:
        warn_if_useless(box_set)
    else:
        show_audit(box_set)


def show_audit(box_set: "BoxSet") -> None:
    """Print the audit of a box set on stdout and its warning on stderr."""
    from ccrop_pipeline.report import audit as judge

    found = judge(box_set)
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
    print_line(
        f"areas       mean {found.mean_area:.1%}, full {found.full:.1%}, over 90 % of the "
        f"image {found.nearly_full:.1%}, empty {found.empty:.1%}, "
        f"unreadable {found.unreadable:.1%}"
    )
    for line in bars(found.area_histogram, "area"):
        print_line(line.rstrip())


def _warn(found: "Audit", box_set: "BoxSet") -> None:
    if not found.warning:
        return
    warn(re.sub(r"`(map|threshold|mass)`", r"--\1", found.warning))
    if remedy := found.remedy:
        note(f"ccrop boxes rethreshold {box_set.folder} OUT --{remedy.name} {remedy.value:g}")
