"""A second look at images, and at windows of them, by a model: do boxes follow the image?"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ccrop_pipeline.base import SILENT, Observer
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.boxset.rejoined import images_of
from ccrop_pipeline.compute.box_sets import default_batch_size, default_threads
from ccrop_pipeline.compute.choice import see_windows, some_of
from ccrop_pipeline.images import Source
from ccrop_pipeline.localize import (
    MAPS,
    BoxRule,
    Encoder,
    Localizer,
    boxes_from_heatmaps,
    choose_map,
    rule_of,
)
from ccrop_pipeline.localize.rule_choice import FEWEST, choose_rule, freedom, kappa
from ccrop_pipeline.report.spread import spread_of
from ccrop_pipeline.report.verdict import Agreement, own_share


def look_again(
    box_set: BoxSet, source: Source, encoder: Encoder, *, observer: Observer = SILENT
) -> Agreement | None:
    """Compare boxes with those that a model finds in windows of up to 400 of their images.

    Where the model made the boxes, its map and its rule are those of the set. Boxes that others
    made are compared with what the model finds with a rule that sets itself, which says nothing
    where that is worth nothing itself: `Agreement.model`.

    Args:
        box_set: Boxes.
        source: Their images.
        encoder: The model.
        observer: Hears of a batch that is too large.

    Returns:
        None where fewer than 32 images can be looked at.

    Raises:
        MissingBoxError: If an image has no box in the set.
    """
    localizer = _maker(box_set, encoder)
    given = localizer is None
    localizer = localizer or Localizer(encoder, choose_map(encoder), BoxRule())
    seen = see_windows(
        *some_of(images_of(box_set, source)),
        localizer,
        batch_size=default_batch_size(encoder),
        threads=default_threads(encoder),
        observer=observer,
    )
    if seen is None or len(seen.keys) < FEWEST:
        return None
    boxes = box_set.find(seen.keys).astype(np.float64)
    rule, size = localizer.rule, encoder.input_size
    if given:
        rule, _ = choose_rule(rule, seen.heatmaps, seen.inside, seen.windows, size)
    moved, rule = bool(rule.centre_weight), replace(rule, centre_weight=0.0)
    if moved and not given:  # kappa is that of boxes before
        boxes = _boxes(seen.heatmaps, rule, size)
    found = _boxes(seen.inside.reshape(-1, *seen.inside.shape[2:]), rule, size)
    inside = found.reshape(len(boxes), -1, 4)
    agreement = Agreement(
        kappa(boxes, inside, seen.windows),
        freedom(boxes),
        len(boxes),
        untrained=encoder.info.epoch == 0,
    )
    if not given:
        return agreement
    own = _boxes(seen.heatmaps, rule, size)
    model = replace(agreement, kappa=kappa(own, inside, seen.windows))
    return replace(agreement, model=own_share(spread_of(own), model))


def _maker(box_set: BoxSet, encoder: Encoder) -> Localizer | None:
    """Return what made the boxes of a set, if it was this encoder and needs no head."""
    made_by = box_set.manifest.provenance
    info, other = encoder.info, made_by.encoder
    localizer = made_by.localizer
    if other is None or localizer is None or localizer.map not in MAPS:
        return None
    if (other.weights_sha256, other.layer) != (info.weights_sha256, info.layer):
        return None
    if localizer.input_size != encoder.input_size:
        return None
    made = Localizer(encoder, localizer.map, rule_of(localizer))
    # In another precision boxes differ by roundings, and by other colours altogether.
    seen = (each.preprocessing.rpartition(";")[0] for each in (localizer, made.info))
    return made if len({*seen}) == 1 else None


def _boxes(heatmaps: NDArray[np.float16], rule: BoxRule, size: int) -> NDArray[np.float64]:
    boxes, _ = boxes_from_heatmaps(torch.from_numpy(heatmaps), rule, size)
    return np.asarray(boxes.double().numpy(), np.float64)
