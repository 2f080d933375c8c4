"""`ccrop boxes info`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ccrop_pipeline.boxset import BoxSet

_NEARLY_FULL = 0.9


@click.command("info")
@click.argument("boxes", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(boxes: Path, as_json: bool) -> None:
    """Show what the box set BOXES holds and what made it.

    \b
    Example:
      ccrop boxes info boxes/first
    """
    from ccrop_pipeline.boxset import BoxSet

    show(BoxSet.open(boxes), as_json)


def show(box_set: "BoxSet", as_json: bool) -> None:
    """Prints a summary of a box set on stdout."""
    summary = _summary(box_set)
    if as_json:
        click.echo(json.dumps(summary))
        return
    for name, value in _lines(summary):
        click.echo(f"{name:<12}{value}")


def warn_if_useless(box_set: "BoxSet") -> None:
    """Says on stderr when most boxes are nearly the whole image, so that they change little."""
    areas = box_set.areas()
    share = (areas > _NEARLY_FULL).mean() if len(areas) else 0
    if share > 0.5:
        click.echo(
            f"Warning: {share:.0%} of the boxes in {box_set.folder} cover more than "
            f"{_NEARLY_FULL:.0%} of their image, so they hardly change where crops go. Try a "
            "higher threshold, or an encoder that was trained for longer.",
            err=True,
        )


def _summary(box_set: "BoxSet") -> dict[str, Any]:
    manifest = box_set.manifest
    areas = box_set.areas()
    return {
        "folder": str(box_set.folder),
        "form": manifest.form,
        "images": manifest.rows,
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "counts": manifest.counts,
        "mean_area": round(float(areas.mean()), 4) if len(areas) else None,
        "full_boxes": int((areas == 1).sum()),
        "provenance": manifest.provenance.to_json(),
    }


def _lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    made_by, images = summary["provenance"], summary["images"]
    encoder, localizer = made_by["encoder"], made_by["localizer"]
    lines = [
        ("box set", f"{summary['folder']} ({summary['form']})"),
        ("images", f"{images:,} in {summary['shards']} shards, {summary['bytes']:,} bytes"),
        ("status", ", ".join(f"{name} {count:,}" for name, count in summary["counts"].items())),
    ]
    if images:
        share = summary["full_boxes"] / images
        lines.append(("boxes", f"mean area {summary['mean_area']:.1%}, full boxes {share:.1%}"))
    if encoder:
        epoch = f", epoch {encoder['epoch']}" if encoder["epoch"] is not None else ""
        lines.append(("encoder", f"{encoder['name']} {encoder['layer']}{epoch}"))
        lines.append(("weights", f"sha256 {encoder['weights_sha256']}"))
        lines.append(
            (
                "heatmap",
                f"{localizer['reduction']}; threshold {localizer['threshold']:g}; "
                f"input {localizer['input_size']} px",
            )
        )
    if made_by["rule"]:
        lines.append(("rule", made_by["rule"]))
    return [*lines, ("fingerprint", made_by["fingerprint"])]
