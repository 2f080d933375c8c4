"""`ccrop boxes validate`."""

import click

from .printing import print_json, print_line


@click.command("validate")
@click.argument("boxes")
@click.argument("source", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def validate(boxes: str, source: str | None, as_json: bool) -> None:
    """Check the box set BOXES against the rules of the format and, if given, against SOURCE.

    All problems are printed, each with the id of its rule in docs/format.md; the exit status is
    1 if there are any.

    \b
    Example:
      ccrop boxes validate boxes/first data/photos
    """
    from ccrop_pipeline.boxset import SourceImage
    from ccrop_pipeline.boxset import validate as find_problems
    from ccrop_pipeline.images import image_hash

    from .sources import open_source

    images = None
    if source is not None:
        opened = open_source(source)
        images = (
            SourceImage(shard, sample.key, image_hash(sample.image))
            for shard in opened.shards
            for sample in opened.read(shard)
        )
    problems = find_problems(boxes, images=images)
    if as_json:
        print_json([problem._asdict() for problem in problems])
    else:
        for problem in problems:
            print_line(str(problem).replace(" ", "  ", 1))
        print_line(f"{boxes}: {len(problems)} problems" if problems else f"{boxes}: valid")
    raise SystemExit(bool(problems))
