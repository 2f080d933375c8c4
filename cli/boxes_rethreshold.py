"""`ccrop boxes rethreshold`."""

from dataclasses import replace
from typing import Any

import click

from .rule_options import expect_one_cut, rule_from, rule_options


@click.command("rethreshold")
@click.argument("boxes")
@click.argument("out")
@rule_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def rethreshold(boxes: str, out: str, as_json: bool, **options: Any) -> None:
    """Apply another rule to the heatmaps stored in BOXES and write the box set OUT.

    Neither images nor the encoder are needed: OUT is what `boxes compute` would have given with
    these options. What is not given stays as it was for BOXES.

    \b
    Example:
      ccrop boxes rethreshold boxes/first boxes/tighter --threshold 0.7
    """
    if all(value is None for value in options.values()):
        raise click.UsageError("give at least one of the options that change the boxes.")
    expect_one_cut(options["threshold"], options["mass"])
    from ccrop_pipeline.boxset import BoxSet

    box_set = BoxSet.open(boxes)
    from ccrop_pipeline.compute.rethreshold import rethreshold as apply
    from ccrop_pipeline.localize import rule_of

    from .boxes_audit import show_result
    from .progress import Counter

    localizer = box_set.manifest.provenance.localizer
    base = rule_of(localizer) if localizer else None
    if base and localizer and localizer.choice and options["mean_share"] is None:
        base = replace(base, threshold=None, mean_share=0.0, centre_weight=None)  # sets itself
    rule = rule_from(base, **options)
    with Counter("boxes", box_set.manifest.rows) as observer:
        result = apply(box_set, out, rule, observer=observer)
    show_result(result, as_json)
