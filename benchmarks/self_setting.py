"""The rule that sets itself, and all it can choose from.

    python -m benchmarks.self_setting SOURCE --model SPEC

For every threshold, fixed or beside half of the image's own mean heat, the two figures that choose
(`ccrop_pipeline.localize.rule_choice`), neither of which looks at a true box. Where true boxes are
known, the share found (IoU of at least 0.5 with any) and the mean IoU stand beside, with those of
the whole image and of its central 80 %. lab/self-setting.md has what came of it.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.better_heat import CENTRE_80, FIXED
from benchmarks.map_quality import best_iou, with_truth
from ccrop_pipeline.boxset import FULL_BOX
from ccrop_pipeline.compute.choice import squares
from ccrop_pipeline.images import Sample, open_source
from ccrop_pipeline.localize import BoxRule, Localizer, boxes_from_heatmaps, choose_map
from ccrop_pipeline.localize.rule_choice import (
    MEAN_SHARE,
    THRESHOLDS,
    choose_rule,
    freedom,
    kappa,
)
from ccrop_pipeline.models import open_encoder

Floats = NDArray[np.floating]
CHOSEN_BY = 400  # images
_BATCH = 16


@dataclass
class Maps:
    """Heatmaps of images (n, h, w) and of windows of them (n, k, h, w), float16."""

    images: Floats
    inside: Floats
    windows: Floats  # (n, k, 4), relative to the image
    size: int


@dataclass
class Row:
    """What is known of one rule."""

    rule: str  # fixed, beside the mean, chosen, central 80 % or whole image
    value: float | None = None  # the threshold
    centre_weight: float = 0.0
    kappa: float | None = None
    freedom: float | None = None
    mean_area: float | None = None
    found: float | None = None
    mean_iou: float | None = None


def maps_of(samples: list[Sample], localizer: Localizer) -> Maps:
    """Compute the heatmaps of images and of windows."""
    size, heat, windows = localizer.encoder.input_size, [], []
    for start in range(0, len(samples), _BATCH):
        seen = [squares(sample, size) for sample in samples[start : start + _BATCH]]
        if any(pair is None for pair in seen):
            raise SystemExit("an image cannot be decoded; leave it out.")
        pairs = [pair for pair in seen if pair]
        pixels = np.concatenate([pair[0] for pair in pairs]).transpose(0, 3, 1, 2)
        heat.append(localizer.heatmaps(torch.from_numpy(pixels)).cpu().numpy())
        windows += [pair[1] for pair in pairs]
    every = np.concatenate(heat).reshape(len(windows), -1, *heat[0].shape[1:])
    return Maps(every[:, 0], every[:, 1:], np.stack(windows), size)


def rows_of(maps: Maps, truths: list[Floats] | None) -> list[Row]:
    """Try every threshold, and choose one."""
    n, grid = len(maps.images), maps.images.shape[1:]
    flat, size = maps.inside.reshape(-1, *grid), min(maps.size, 112)
    rules = [("fixed", BoxRule(value)) for value in FIXED]
    rules += [("beside the mean", BoxRule(t, mean_share=MEAN_SHARE)) for t in THRESHOLDS]
    part = slice(0, CHOSEN_BY)
    rule, choice = choose_rule(
        BoxRule(), maps.images[part], maps.inside[part], maps.windows[part], maps.size
    )
    rules.append(("worth nothing" if choice.worthless else "chosen", rule))
    rows = [_row(name, np.tile(box, (n, 1)), truths) for name, box in _SAME.items()]
    for name, each in rules:
        boxes, inside = (
            boxes_from_heatmaps(torch.from_numpy(heat), bare, size)[0].double().numpy()
            for bare in [replace(each, centre_weight=0.0)]
            for heat in (maps.images, flat)
        )
        weight = each.centre_weight
        row = _row(name, boxes * (1 - weight) + weight * np.array(CENTRE_80), truths)
        row.value, row.centre_weight, row.freedom = each.threshold, weight, freedom(boxes)
        row.kappa = kappa(boxes, inside.reshape(n, -1, 4), maps.windows)
        rows.append(row)
    return rows


_SAME = {"central 80 %": CENTRE_80, "whole image": FULL_BOX}


def _row(name: str, boxes: Floats, truths: list[Floats] | None) -> Row:
    row = Row(name, mean_area=float((boxes[:, 2:] - boxes[:, :2]).prod(axis=1).mean()))
    if truths:
        fit = best_iou(boxes, truths)
        row.found, row.mean_iou = float((fit >= 0.5).mean()), float(fit.mean())
    return row


def lines_of(rows: list[Row]) -> str:
    """Return rows as JSON lines, of four digits."""
    plain = [
        {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(row).items()}
        for row in rows
    ]
    return "".join(json.dumps(row) + "\n" for row in plain)


def main() -> None:
    """Print every threshold tried, and the one chosen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--model", required=True)
    parser.add_argument("--map", help="default: as the command chooses it")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON lines, one a threshold")
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoder, (samples, truths) = open_encoder(options.model), with_truth(options.source)
    if not samples:
        source = open_source(options.source)
        samples = [sample for shard in source.shards for sample in source.read(shard)]
    taken = np.random.default_rng(options.seed).permutation(len(samples))[: options.images]
    localizer = Localizer(encoder, options.map or choose_map(encoder))
    maps = maps_of([samples[row] for row in taken], localizer)
    rows = rows_of(maps, [truths[row] for row in taken] if truths else None)
    if options.out:
        options.out.write_text(lines_of(rows))
    for row in rows:
        print(row, file=sys.stderr)


if __name__ == "__main__":
    main()
