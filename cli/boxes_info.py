"""`ccrop boxes info`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .printing import print_json, print_line

if TYPE_CHECKING:
    from ccrop_pipeline.boxset import BoxSet


@click.command("info")
@click.argument("boxes")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(boxes: str, as_json: bool) -> None:
    """Show what the box set BOXES holds and what made it.

    \b
    Example:
      ccrop boxes info boxes/first
    """
    from ccrop_pipeline.boxset import BoxSet

    show(BoxSet.open(boxes), as_json)


def show(box_set: "BoxSet", as_json: bool) -> None:
    """Print a summary of a box set on stdout."""
    found = summary(box_set)
    if as_json:
        print_json(found)
        return
    for name, value in _lines(found):
        print_line(f"{name:<12}{value}")


def summary(box_set: "BoxSet") -> dict[str, Any]:
    """Return what `--json` prints of a box set."""
    manifest = box_set.manifest
    found = manifest.statistics
    return {
        "folder": str(box_set.folder),
        "form": manifest.form,
        "images": manifest.rows,
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        **asdict(found),
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
        share = summary["full"] / images
        lines.append(("boxes", f"mean area {summary['mean_area']:.1%}, full boxes {share:.1%}"))
    if encoder:
        epoch = f", epoch {encoder['epoch']}" if encoder["epoch"] is not None else ""
        lines.append(("encoder", f"{encoder['name']} {encoder['layer']}{epoch}"))
        lines.append(("weights", f"sha256 {encoder['weights_sha256']}"))
        lines.append(("heatmap", f"{localizer['map']}; input {localizer['input_size']} px"))
        lines.append(("box rule", _box_rule(localizer)))
    if made_by["rule"]:
        lines.append(("rule", made_by["rule"]))
    return [*lines, ("fingerprint", made_by["fingerprint"])]


def _box_rule(localizer: dict[str, Any]) -> str:
    cut = "mass" if localizer["threshold"] is None else "threshold"
    parts = [f"{cut} {localizer[cut]:g}"]
    if localizer["component"] != "all":
        parts.append(f"{localizer['component']} component")
    for name in ("margin", "min_size"):
        parts += [f"{name.replace('_', ' ')} {localizer[name]:g}"] if localizer[name] else []
    return "; ".join(parts)
