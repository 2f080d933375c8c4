"""`ccrop boxes info`."""

from collections import Counter
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ccrop_pipeline.errors import counted, printable

from .option_types import LocalPath
from .printing import note, print_json, print_line

if TYPE_CHECKING:
    from ccrop_pipeline.boxset import BoxSet

_NAMED = 10  # unreadable images
_BRIEF = ("box set", "images", "unreadable", "boxes", "objects", "box rule")


@click.command("info")
@click.argument("boxes")
@click.option(
    "--unreadable",
    metavar="FILE",
    type=LocalPath(dir_okay=False),
    help="Write the keys of all images that could not be decoded to the new file FILE, one a line.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(boxes: str, unreadable: Path | None, as_json: bool) -> None:
    """Show what the box set BOXES holds and what made it.

    The first ten of the images that could not be decoded are named.

    \b
    Example:
      ccrop boxes info boxes/first
    """
    from ccrop_pipeline.boxset import BoxSet

    box_set = BoxSet.open(boxes)
    if unreadable:
        _write_unreadable(box_set, unreadable)
    show(box_set, as_json)


def show(box_set: "BoxSet", as_json: bool) -> None:
    """Print a summary of a box set on stdout."""
    found = summary(box_set)
    if as_json:
        print_json(found)
        return
    for name, value in _lines(found):
        print_line(f"{name:<12}{value}")


def show_in_brief(box_set: "BoxSet") -> None:
    """Print on stdout what of a summary matters to whoever has just made the boxes."""
    found = summary(box_set)
    is_whole = found["counts"]["ok"] == found["images"]
    for name, value in _lines(found):
        if name in _BRIEF or (name == "status" and not is_whole):
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
        "objects": objects_an_image(box_set),
        "unreadable_keys": unreadable_keys(box_set),
        "provenance": manifest.provenance.to_json(),
    }


def objects_an_image(box_set: "BoxSet") -> dict[str, int] | None:
    """Return how many images have one object, two, and so on; None where one was asked for."""
    localizer = box_set.manifest.provenance.localizer
    if localizer is None or localizer.objects == 1:
        return None
    found = Counter[int]()
    for _, table in box_set.tables(heatmaps=False):
        assert table.choices is not None
        found.update(table.choices.counts.tolist())
    return {str(number): found[number] for number in sorted(found)}


def unreadable_keys(box_set: "BoxSet", most: int | None = _NAMED) -> list[str]:
    """Return the keys of images that could not be decoded, in source order; all if None."""
    from ccrop_pipeline.boxset import UNREADABLE

    if not box_set.manifest.statistics.counts["unreadable"]:
        return []
    bad = (
        table.keys[row]
        for _, table in box_set.tables(heatmaps=False)
        for row in (table.status == UNREADABLE).nonzero()[0]
    )
    return list(islice(bad, most))


def unreadable_line(keys: list[str], count: int, folder: str) -> str:
    """Return the keys in words, with how many there are and what lists them all."""
    if count == len(keys):
        return ", ".join(keys)
    return (
        f"{', '.join(keys)} and {count - len(keys):,} more: "
        f"`ccrop boxes info {folder} --unreadable FILE` lists all"
    )


def _write_unreadable(box_set: "BoxSet", file: Path) -> None:
    from ccrop_pipeline.base.files import written_aside

    lines = [f"{printable(key)}\n" for key in unreadable_keys(box_set, most=None)]
    with written_aside(file) as aside:
        aside.write_text("".join(lines), encoding="utf-8")
    note(f"{counted(len(lines), 'key')} in {file}")


def _lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    made_by, images = summary["provenance"], summary["images"]
    encoder, localizer = made_by["encoder"], made_by["localizer"]
    lines = [
        ("box set", f"{summary['folder']} ({summary['form']})"),
        (
            "images",
            f"{images:,} in {counted(summary['shards'], 'shard')}, {summary['bytes']:,} bytes",
        ),
        ("status", ", ".join(f"{name} {count:,}" for name, count in summary["counts"].items())),
    ]
    if keys := summary["unreadable_keys"]:
        count = summary["counts"]["unreadable"]
        lines.append(("unreadable", unreadable_line(keys, count, summary["folder"])))
    if images:
        share = summary["full"] / images
        lines.append(("boxes", f"mean area {summary['mean_area']:.1%}, full boxes {share:.1%}"))
    if objects := summary["objects"]:
        each = ", ".join(
            f"{number} in {counted(count, 'image')}" for number, count in objects.items()
        )
        mean = sum(int(number) * count for number, count in objects.items()) / images
        lines.append(("objects", f"{mean:.1f} an image in the mean: {each}"))
    if encoder:
        epoch = f", epoch {encoder['epoch']}" if encoder["epoch"] is not None else ""
        lines.append(("encoder", f"{encoder['name']} {encoder['layer']}{epoch}"))
        lines.append(("weights", f"sha256 {encoder['weights_sha256']}"))
        lines.append(("heatmap", f"{localizer['map']}; input {localizer['input_size']} px"))
        lines.append(("box rule", _box_rule(localizer)))
    if made_by["rule"]:
        lines.append(("rule", made_by["rule"]))
    return [*lines, ("fingerprint", made_by["fingerprint"])]


def box_rule(box_set: "BoxSet") -> str:
    """Return the threshold of boxes that a model made, and what it was chosen by."""
    return _box_rule(box_set.manifest.provenance.to_json()["localizer"])


def _box_rule(localizer: dict[str, Any]) -> str:
    cut = "mass" if localizer["threshold"] is None else "threshold"
    parts = [f"{cut} {localizer[cut]:g}"]
    if share := localizer.get("mean_share"):
        parts[0] += f" + {share:g} of the image's mean heat"
    if weight := localizer.get("centre_weight"):
        parts.append(f"weight {weight:g} of the central 80 %")
    if "objects" in localizer:
        parts.append(f"up to {localizer['objects']} objects an image")
    if localizer["component"] != "all":
        parts.append(f"{localizer['component']} component")
    for name in ("margin", "min_size"):
        parts += [f"{name.replace('_', ' ')} {localizer[name]:g}"] if localizer[name] else []
    if choice := localizer.get("choice"):
        parts.append(_set_itself(localizer["threshold"], choice))
    return "; ".join(parts)


def _set_itself(threshold: float, choice: dict[str, Any]) -> str:
    images = counted(choice["images"], "image")
    if not choice["threshold"]:
        return f"set itself: too few to choose by ({images})"
    kappa = choice["kappa"][choice["threshold"].index(threshold)]
    worth = ", worth nothing" if choice["worthless"] else ""
    return f"set itself by {images}, kappa {kappa:.2f}{worth}"
