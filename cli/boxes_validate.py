"""`ccrop boxes validate`."""

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from ccrop_pipeline.errors import BoxSetError, SourceError, counted

from .printing import print_json, print_line, warn

if TYPE_CHECKING:
    from ccrop_pipeline.boxset import BoxSet, Problem
    from ccrop_pipeline.images import Source

_SHOWN = 10  # breaches of a rule


@click.command("validate")
@click.argument("boxes")
@click.argument("source", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def validate(boxes: str, source: str | None, as_json: bool) -> None:
    """Check the box set BOXES against the rules of the format and, if given, against SOURCE.

    Of each rule in docs/format.md the first ten breaches are printed, and how many more there are;
    --json prints all. The exit status is 1 if there are any.

    \b
    Example:
      ccrop boxes validate boxes/first data/photos
    """
    from ccrop_pipeline.boxset import BoxSet, SourceImage
    from ccrop_pipeline.boxset import validate as find_problems
    from ccrop_pipeline.boxset.rejoined import images_of
    from ccrop_pipeline.images import image_hash

    from .sources import open_source

    images = None
    if source is not None:
        opened = open_source(source)
        with suppress(BoxSetError):  # which is a problem that is found
            box_set = BoxSet.open(boxes)
            opened = images_of(box_set, opened)
            _warn_of_other_images(box_set, opened)
        images = (
            SourceImage(shard, sample.key, image_hash(sample.image))
            for shard in opened.shards
            for sample in opened.read(shard)
        )
    problems = find_problems(boxes, images=images)
    if as_json:
        print_json([problem._asdict() for problem in problems])
    else:
        for line in _lines(problems):
            print_line(line)
        print_line(
            f"{boxes}: {counted(len(problems), 'problem')}" if problems else f"{boxes}: valid"
        )
    raise SystemExit(bool(problems))


def _warn_of_other_images(box_set: "BoxSet", source: "Source") -> None:
    from ccrop_pipeline.boxset.rejoined import expect_shared

    try:
        expect_shared(box_set, source)
    except SourceError as error:
        warn(str(error))


def _lines(problems: "list[Problem]") -> list[str]:
    rules: dict[str, list[str]] = {}
    for problem in problems:
        rules.setdefault(problem.rule, []).append(str(problem).replace(" ", "  ", 1))
    lines = []
    for rule, found in sorted(rules.items()):
        lines += found[:_SHOWN]
        if len(found) > _SHOWN:
            lines.append(f"{rule}  and {len(found) - _SHOWN:,} more")
    return lines
