"""A box set as one HTML file that opens from disk: findings, figures, and images to look at."""

import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ccrop_pipeline.base import Location
from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.boxset import BoxSet, LocalizerInfo, opened
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import counted, printable
from ccrop_pipeline.images import Source, open_source
from ccrop_pipeline.report.audit import Audit, audit
from ccrop_pipeline.report.diff import BoxDiff, diff, nothing_shared
from ccrop_pipeline.report.drift import refresh_before
from ccrop_pipeline.report.gallery import Gallery, gallery
from ccrop_pipeline.report.rendering import (
    Finding,
    gravest_first,
    lines_of_json,
    script_json,
    sentence,
    verdict_finding,
    write_page,
)
from ccrop_pipeline.report.verdict import least_shown

_GRID = 24  # cells a side in which centres are counted


def report_boxes(
    boxes: BoxSet | Location,
    source: Source | Location,
    out: str | Path,
    *,
    against: BoxSet | Location | None = None,
    crop: CropParams | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a page about a box set: one HTML file that needs no network, of at most 5 MB.

    Statistics are those of all boxes. Up to 200 images are shown, out of up to 8 shards, and the
    page says so; their boxes are drawn anew from the stored heatmaps for any other threshold.

    Args:
        boxes: A box set, or its folder: a local path or an address.
        source: The images they belong to, or what `open_source` takes.
        out: The file to write.
        against: Another box set over the same images, to compare with.
        crop: How windows of views are drawn; None: as in `CropParams`.
        overwrite: Whether it replaces a file that is there.

    Returns:
        The file.

    Raises:
        SourceError: If the images are not those of the box set, or cannot be read.
        BoxSetError: If a box set is not complete, or a shard of it cannot be read.
        CcropError: If `out` is there with other content and may not be replaced, or
            cannot be written.
    """
    target = local_path(out)
    box_set = opened(boxes)
    images = open_source(source) if isinstance(source, str | Path) else source
    other = None if against is None else opened(against)
    changed = None if other is None else diff(other, box_set)
    if other is not None and changed is not None and not changed.both:
        raise nothing_shared(box_set, other)
    crop = crop or CropParams()
    earlier = [before] if (before := refresh_before(box_set)) else []
    shown = gallery(box_set, images, crop=crop, against=other, earlier=earlier)
    judged = audit(box_set, crop=crop)
    return write_page(
        target,
        "boxes.html.j2",
        ("base.js", "gallery.js", "rule.js", "boxes.js"),
        overwrite=overwrite,
        name=printable(box_set.folder),
        source=printable(images.location),
        images=counted(box_set.manifest.rows, "image"),
        audit=judged,
        findings=_findings(judged, shown, changed),
        tiles=_tiles(judged, changed),
        changed=changed,
        earlier=shown.earlier,
        other=None if other is None else printable(other.folder),
        shown=shown,
        made=_made_by(box_set),
        commands=[printable(line) for line in _commands(box_set, images, other)],
        whole=("Provenance as it is stored", lines_of_json(box_set.manifest.provenance.to_json())),
        data=script_json(_data(box_set, images, shown, judged, other)),
    )


def _data(
    box_set: BoxSet, source: Source, shown: Gallery, judged: Audit, other: BoxSet | None
) -> dict[str, Any]:
    """Return what the script of the page reads."""
    localizer = box_set.manifest.provenance.localizer
    choice = None if localizer is None else localizer.choice
    return {
        "items": shown.items,
        "classes": list(map(printable, source.classes)),
        "folder": shlex.quote(printable(box_set.folder)),
        "rule": None if localizer is None else asdict(localizer) | {"choice": None},
        "grid": shown.grid,
        "earlier": shown.earlier,
        "other": None if other is None else printable(Path(str(other.folder)).name),
        "choice": None if choice is None or not choice.threshold else asdict(choice),
        "centres": _centres(box_set),
        "mean_heat": None if judged.heat is None else judged.heat.mean,
        "median": None if judged.spread is None else judged.spread.median_box,
    }


def _tiles(judged: Audit, changed: BoxDiff | None) -> list[tuple[str, str]]:
    """Return the figures that stand out, by what they are called."""
    shares = {
        "mean area": judged.mean_area,
        "over 90% of the image": judged.nearly_full,
        "whole image": judged.full,
        "empty": judged.empty,
        "unreadable": judged.unreadable,
    }
    tiles = [(name, "-" if share is None else f"{share:.1%}") for name, share in shares.items()]
    if judged.agreement:
        tiles.append(("kappa with windows", f"{judged.agreement.kappa:.2f}"))
    if judged.spread:
        tiles.append(("IoU with the median box", f"{judged.spread.median_iou:.2f}"))
    if changed and changed.mean_iou is not None:
        tiles.append(("IoU with the other set", f"{changed.mean_iou:.2f}"))
    return tiles


def _centres(box_set: BoxSet) -> list[list[int]]:
    """Count the centres of all boxes in cells of the image, row by row."""
    counts = np.zeros((_GRID, _GRID), np.int64)
    for _, table in box_set.tables(heatmaps=False):
        centres = (table.boxes[:, :2].astype(np.float64) + table.boxes[:, 2:]) / 2
        cells = np.minimum((centres * _GRID).astype(np.int64), _GRID - 1)
        np.add.at(counts, (cells[:, 1], cells[:, 0]), 1)
    return counts.tolist()


def _findings(judged: Audit, shown: Gallery, changed: BoxDiff | None) -> list[Finding]:
    """Return what is worth knowing: the verdict, then all else, the gravest first."""
    found = []
    if shown.absent:
        found.append(
            Finding(
                "bad",
                f"{counted(shown.absent, 'image')} of {len(shown.items)} not in the source",
                "The boxes were computed from other images than these.",
                "only=absent",
            )
        )
    if shown.other_bytes:
        found.append(
            Finding(
                "bad",
                f"{counted(shown.other_bytes, 'image')} of {len(shown.items)} with other bytes",
                "These are not the bytes that boxes were computed from: compute them again.",
                "only=bytes",
            )
        )
    for share, status, why in (
        (judged.unreadable, "unreadable", "could not be decoded"),
        (judged.empty, "empty", "have no content in their heatmap"),
    ):
        if share:
            text = f"{share:.1%} of the images {why}; their box is the whole image."
            found.append(Finding("note", f"{share:.1%} {status}", text, f"status={status}"))
    if judged.cost and judged.windows:
        found.append(
            Finding(
                "note",
                "Windows show less than random crops",
                sentence(judged.cost),
                f"sort={least_shown(judged.windows)}",
            )
        )
    if changed is not None:
        found.append(_difference(changed))
    return gravest_first([verdict_finding(judged), *found])


def _difference(changed: BoxDiff) -> Finding:
    if changed.mean_iou is None:
        return Finding("bad", "No image in both sets", "Compare sets over the same images.")
    alone = changed.only_before + changed.only_after
    text = (
        f"{changed.both - changed.identical:,} of {counted(changed.both, 'box')} differ; the mean "
        f"IoU of the boxes of an image is {changed.mean_iou:.3f}."
    )
    return Finding(
        "note",
        f"{1 - changed.identical / changed.both:.1%} differ from the other set",
        text + (f" {counted(alone, 'image')} in one set alone." if alone else ""),
        "sort=change",
    )


def _made_by(box_set: BoxSet) -> list[tuple[str, str]]:
    """Return the provenance as lines of a table."""
    made = box_set.manifest.provenance
    lines = []
    if encoder := made.encoder:
        epoch = "" if encoder.epoch is None else f", epoch {encoder.epoch}"
        lines += [
            ("encoder", f"{encoder.name}, {encoder.layer}{epoch}"),
            ("weights", f"sha256 {encoder.weights_sha256}"),
        ]
    if localizer := made.localizer:
        lines += [
            ("heatmap", f"{localizer.map}, input {localizer.input_size} px"),
            ("box rule", " ".join(_rule_words(localizer))),
        ]
        if choice := localizer.choice:
            lines.append(("set itself", f"by {counted(choice.images, 'image')}"))
    if made.rule:
        lines.append(("rule", made.rule))
    lines += [
        ("source", f"{made.source.kind}, {made.source.fingerprint}"),
        ("libraries", ", ".join(f"{name} {at}" for name, at in sorted(made.libraries.items()))),
        ("fingerprint", made.fingerprint),
    ]
    return [(name, printable(value)) for name, value in lines if value]


def _rule_words(localizer: LocalizerInfo) -> list[str]:
    """Return the options of a box rule as the command line has them."""
    given = {
        "threshold": localizer.threshold,
        "mean-share": localizer.mean_share or None,
        "centre-weight": localizer.centre_weight or None,
        "mass": localizer.mass,
        "objects": localizer.objects if localizer.objects > 1 else None,
        "component": localizer.component if localizer.component != "all" else None,
        "margin": localizer.margin or None,
        "min-size": localizer.min_size or None,
    }
    return [f"--{name} {value}" for name, value in given.items() if value is not None]


def _commands(box_set: BoxSet, source: Source, other: BoxSet | None) -> list[str]:
    """Return the commands that make this again, as far as the box set knows them."""
    folder, images = (shlex.quote(str(place)) for place in (box_set.folder, source.location))
    made = box_set.manifest.provenance
    lines = []
    if made.encoder and (localizer := made.localizer):
        rule = _rule_words(localizer)
        if localizer.choice:  # it sets itself again
            from ccrop_pipeline.localize.rule_choice import weight_of  # torch, which takes seconds

            weight = localizer.centre_weight
            rule = [w for w in rule if not re.match("--(threshold|mean-share|centre-weight)", w)]
            if weight != weight_of(localizer.choice, localizer.objects):
                rule.append(f"--centre-weight {weight}")
        lines.append(
            f"ccrop boxes compute {images} {folder} --model MODEL "
            f"--layer {shlex.quote(made.encoder.layer)} --map {shlex.quote(localizer.map)} "
            f"--input-size {localizer.input_size} {' '.join(rule)}".rstrip()
        )
    compared = "" if other is None else f" --against {shlex.quote(str(other.folder))}"
    return [
        *lines,
        f"ccrop boxes validate {folder} {images}",
        f"ccrop boxes report {folder} {images}{compared}",
    ]
