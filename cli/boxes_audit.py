"""`ccrop boxes audit`, and the same at the end of commands that make boxes."""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ccrop_pipeline.errors import counted

from .model_options import expect_model, model_options, open_model
from .option_types import LocalPath, complete_recipe
from .printing import columns, note, note_command, print_json, print_line, warn

if TYPE_CHECKING:
    from ccrop_pipeline.boxset import BoxSet
    from ccrop_pipeline.report import Audit
    from ccrop_pipeline.report.verdict import Agreement

_BAR, _BESIDE = 40, 26  # columns of the longest bar, and of what stands before it


@click.command("audit")
@click.argument("boxes")
@click.argument("source", required=False)
@click.option(
    "--model",
    metavar="MODEL",
    help="With SOURCE, the images: let this model look at some, and at windows of them. What it "
    "can be: `ccrop boxes compute --help`.",
)
@model_options
@click.option(
    "--recipe",
    metavar="RECIPE",
    shell_complete=complete_recipe,
    help="Draw windows as this recipe.  [default: paper, alpha 0.6]",
)
@click.option(
    "--heatmap",
    metavar="FILE",
    type=LocalPath(dir_okay=False),
    help="Draw the mean heatmap and the median box into the new PNG file FILE.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def audit(
    boxes: str,
    source: str | None,
    model: str | None,
    recipe: str | None,
    heatmap: Path | None,
    as_json: bool,
    **options: Any,
) -> str | None:
    """Say whether the boxes in BOXES carry anything of their images, and what crops they make.

    The verdict comes first: boxes follow the image, carry little or nothing of it, or nothing
    tells. Where they carry little, a warning on stderr says why and what would help. Boxes whose
    rule was given, or that come from elsewhere, need the images SOURCE and a --model to tell.

    \b
    Example:
      ccrop boxes audit boxes/first
      ccrop boxes audit boxes/coco data/photos --model runs/first
    """
    from ccrop_pipeline.boxset import BoxSet

    if (source is None) != (model is None):
        raise click.UsageError("give SOURCE and --model together.")
    box_set = BoxSet.open(boxes)
    from ccrop_pipeline.recipes import load_recipe
    from ccrop_pipeline.report import audit as judge

    from .boxes_info import unreadable_keys, unreadable_line

    keys = unreadable_keys(box_set)
    crop = load_recipe(recipe).crop if recipe else None
    again = _look_again(box_set, source, model, options) if source and model else None
    found = judge(box_set, crop=crop, agreement=again)
    if heatmap:
        _draw(found, heatmap)
    if as_json:
        print_json(asdict(found) | {"unreadable_keys": keys})
        return None
    _show(found)
    _warn(found, box_set)
    _say_what_tells(found, box_set)
    if keys:
        count = box_set.manifest.statistics.counts["unreadable"]
        print_line(f"unreadable  {unreadable_line(keys, count, boxes)}")
    return None if found.warning else "good"


def _look_again(
    box_set: "BoxSet", source: str, model: str, options: dict[str, Any]
) -> "Agreement | None":
    expect_model(model, options["weights"])
    from .sources import open_source

    opened = open_source(source)
    from ccrop_pipeline.report.second_pass import look_again  # torch, which takes seconds

    return look_again(box_set, opened, open_model(model, **options, say=note))


def _draw(found: "Audit", file: Path) -> None:
    from ccrop_pipeline.base.files import written_aside
    from ccrop_pipeline.errors import BoxSetError
    from ccrop_pipeline.report import draw_mean_heatmap

    if found.heat is None or found.spread is None:
        raise BoxSetError("there are no heatmaps to draw: the box set was written without.")
    with written_aside(file) as aside:
        draw_mean_heatmap(found.heat.mean, found.spread.median_box).save(aside, "PNG")


def show_result(box_set: "BoxSet", as_json: bool) -> None:
    """End a command that made boxes: verdict and summary on stdout, the warning on stderr.

    Args:
        box_set: What was made.
        as_json: Whether stdout gets the summary as JSON and nothing else.
    """
    from ccrop_pipeline.report import audit as judge

    from .boxes_info import show, show_in_brief

    found = judge(box_set)
    was_said = _was_said(found)
    if as_json:
        show(box_set, as_json)
    else:
        _show_verdict(found, warned=not was_said)
        show_in_brief(box_set)
        print_line(f"details     ccrop boxes audit {shlex.quote(str(box_set.folder))}")
    if not was_said:
        _warn(found, box_set)
    _say_what_tells(found, box_set)


def warn_if_useless(box_set: "BoxSet") -> None:
    """Print the warning of an audit on stderr, if there is one."""
    from ccrop_pipeline.report import audit as judge

    found = judge(box_set)
    if not _was_said(found):
        _warn(found, box_set)


def _was_said(found: "Audit") -> bool:
    """Return whether what made the boxes has warned of them, when no threshold was worth it."""
    return found.agreement is not None and found.agreement.worthless


def bars(counts: Iterable[int], label: str) -> list[str]:
    """Return the lines of a histogram over ten equal parts of [0, 1]."""
    counts = list(counts)
    most, total = max(1, *counts), max(1, sum(counts))
    longest = max(1, min(_BAR, columns() - _BESIDE))
    return [
        f"{label} up to {number / 10:4.0%}  {count / total:6.1%}  "
        + "#" * (longest * count // most)
        for number, count in enumerate(counts, start=1)
    ]


def _show_verdict(found: "Audit", *, warned: bool = True) -> None:
    print_line(f"verdict     {found.verdict}")
    if not (found.warning and warned):
        print_line(
            f"because     {with_flags(' '.join(filter(None, (found.reason, found.advice))))}"
        )


def _show(found: "Audit") -> None:
    if not found.images:
        print_line("no boxes")
        return
    _show_verdict(found)
    for line in _figures(found):
        print_line(line)
    for line in bars(found.area_histogram, "area"):
        print_line(line.rstrip())


def _figures(found: "Audit") -> Iterator[str]:
    from ccrop_pipeline.report.verdict import shown

    if by := found.agreement:
        whose = "" if by.model is None else f"; this model made others (own {shown(by.model)})"
        yield (
            f"agreement   kappa {by.kappa:.2f} (1: the same boxes, 0: chance), freedom "
            f"{by.freedom:.2f}, on {counted(by.images, 'image')}{whose}"
        )
    if found.spread:
        edges = ", ".join(f"{edge:.2f}" for edge in found.spread.median_box)
        yield (
            f"spread      IoU {found.spread.median_iou:.2f} with the median box ({edges}), centres "
            f"{found.spread.centre_spread:.2f}"
        )
        own = shown(found.own or 0.0)
        is_known = found.agreement is not None and found.agreement.model is None
        own = own if is_known else f"not known; {own} if kappa were 1, its most"
        yield f"own         {own}: kappa · (1 - IoU)"
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
        warn(with_flags(found.warning))
    if remedy := found.remedy:
        folder = shlex.quote(str(box_set.folder))
        line = f"ccrop boxes rethreshold {folder} OUT --{remedy.name} {remedy.value:g}"
        note_command("such as", line)


def _say_what_tells(found: "Audit", box_set: "BoxSet") -> None:
    if found.advice and "`source`" in found.advice:
        folder = shlex.quote(str(box_set.folder))
        note_command("to find out", f"ccrop boxes audit {folder} SOURCE --model MODEL")


def with_flags(text: str) -> str:
    """Put the flags of the command line in the place of the parameters of the library."""
    return re.sub(r"`(map|threshold|mass|model)`", r"--\1", text).replace("`source`", "SOURCE")
