"""Boxes by another rule from stored heatmaps, without images and without the encoder."""

from dataclasses import asdict, replace

import numpy as np
import torch

from ccrop_pipeline.base import SILENT, Location, Observer
from ccrop_pipeline.boxset import (
    EMPTY,
    FULL_BOX,
    OK,
    UNREADABLE,
    BoxSet,
    BoxTable,
    Choices,
    LocalizerInfo,
    left_to_write,
    opened,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.errors import BoxSetError
from ccrop_pipeline.localize import MASKS, BoxRule, boxes_from_heatmaps, object_boxes
from ccrop_pipeline.localize.rule_choice import weight_of

_CHUNK = 4096  # heatmaps at a time


def rethreshold(
    boxes: BoxSet | Location,
    folder: Location,
    rule: BoxRule,
    *,
    observer: Observer = SILENT,
) -> BoxSet:
    """Write the box set that the same encoder would have given with another rule.

    Boxes, statuses and files are those of computing anew, bit for bit. Complete shards that
    are already in the folder are kept, so the same call goes on with what was stopped.

    Args:
        boxes: A box set with heatmaps, or its folder: a local path or an address.
        folder: Where the new box set goes: a local path or an address.
        rule: The rule of the new boxes. One that sets itself has what it set for `boxes`, since
            to choose anew takes images.
        observer: Hears how it goes.

    Raises:
        BoxSetError: If the set has no heatmaps, the rule is to set itself and that of the set did
            not, a map that makes masks was asked for another number of objects, or the folder
            holds boxes of something else.
    """
    box_set = opened(boxes)
    made_by, form = box_set.manifest.provenance, box_set.manifest.form
    if made_by.localizer is None:
        raise BoxSetError(
            f"the boxes in {box_set.folder} come from no model ({made_by.rule}), so there are no "
            "heatmaps to apply another rule to. Compute boxes with `ccrop boxes compute`."
        )
    rule, localizer = _settled(rule, made_by.localizer, box_set)
    provenance = replace(made_by, localizer=localizer)
    names = [entry.name for entry in box_set.manifest.shards]
    for name in left_to_write(folder, names, provenance, form=form):
        table = box_set.read(name)
        if table.heatmaps is None and len(table):
            raise BoxSetError(
                f"the box set {box_set.folder} was written without heatmaps, so that no other "
                "rule can be applied to it. Compute the boxes again, with the rule or with "
                "heatmaps."
            )
        changed = with_rule(table, rule, map_name=localizer.map, map_size=localizer.input_size)
        write_shard(folder, name, changed, provenance, form=form)
        observer.images_done(len(table), name)
    write_manifest(folder, names, provenance, form=form)
    return BoxSet.open(folder)


def _settled(
    rule: BoxRule, made_by: LocalizerInfo, box_set: BoxSet
) -> tuple[BoxRule, LocalizerInfo]:
    """Return the rule with a threshold, and what is recorded of it."""
    if rule.sets_itself:
        if made_by.choice is None:
            raise BoxSetError(
                f"the rule of {box_set.folder} was given, and without the images none can set "
                "itself. Give `threshold` or `mass`."
            )
        given = rule.centre_weight
        weight = _weight_kept(made_by, rule.objects) if given is None else given
        rule = replace(rule, threshold=made_by.threshold, mean_share=made_by.mean_share)
        rule = replace(rule, centre_weight=weight)
    if made_by.map in MASKS and rule.objects != made_by.objects:
        raise BoxSetError(
            f"the map {made_by.map!r} finds as many objects as it is asked for, at most "
            f"{made_by.objects} an image in {box_set.folder}: compute the boxes again for another "
            "number of `objects`."
        )
    changed = replace(made_by, **asdict(rule), choice=None)
    fixed = ("threshold", "mean_share", "mass", "component")
    same = all(getattr(made_by, name) == getattr(changed, name) for name in fixed)
    if same and changed.centre_weight == _weight_kept(made_by, rule.objects):
        changed = replace(changed, choice=made_by.choice)
    return rule, changed


def _weight_kept(made_by: LocalizerInfo, objects: int) -> float:
    """Return the centre weight of boxes, as it is with up to a number of objects an image."""
    kept, choice = made_by.centre_weight, made_by.choice
    set_itself = choice is not None and kept == weight_of(choice, made_by.objects)
    return weight_of(choice, objects) if choice and set_itself else kept


def with_rule(table: BoxTable, rule: BoxRule, *, map_name: str, map_size: int) -> BoxTable:
    """Return a table with the boxes, statuses and choices that its heatmaps have by a rule.

    Args:
        table: With heatmaps; else it is returned as it is.
        rule: What the boxes are drawn around; with several objects the table gets choices.
        map_name: What made the heatmaps.
        map_size: As for `boxes_from_heatmaps`.
    """
    if table.heatmaps is None:
        return table
    boxes, status = table.boxes.copy(), table.status.copy()
    readable, parts = status != UNREADABLE, [Choices.of([])]
    for start in range(0, len(table), _CHUNK):
        rows = slice(start, start + _CHUNK)
        heatmaps = torch.from_numpy(table.heatmaps[rows] * readable[rows, None, None])
        if rule.objects > 1:
            several, found = object_boxes(heatmaps, rule, map_size, masks=map_name in MASKS)
            parts.append(several)
            boxes[rows] = several.union()
        else:
            found_boxes, has_content = boxes_from_heatmaps(heatmaps, rule, map_size)
            boxes[rows], found = found_boxes.numpy(), has_content.numpy()
        status[rows] = np.where(found, OK, EMPTY)
    status[~readable] = UNREADABLE
    boxes[status != OK] = FULL_BOX
    choices = Choices.joined(parts) if rule.objects > 1 else None
    return replace(table, boxes=boxes, status=status, choices=choices)
