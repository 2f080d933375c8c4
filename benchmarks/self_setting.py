"""A box rule that needs no number and no label, tried out: self_setting.py SOURCE --model SPEC.

Two windows are cut at random from each of some images, and their heatmaps computed as well. For
every threshold two figures are taken, neither of which looks at a true box:

- kappa: 1 - d / c, with d the mean squared distance between the centre of an image's box, clipped
  to the window, and that of the window's own box, and c the same for the boxes of other images.
  It is Cohen's kappa with quadratic weights: 1 is perfect agreement, 0 chance.
- freedom: the standard deviation of the boxes' centres over that of boxes of their mean side that
  lie anywhere in the image, (1 - side) / sqrt(12); mean of the two axes.

The rule chosen is the first at which freedom * kappa ** 0.75 falls below 1; the last one where it
never does and kappa is above 0.8; else none. Where true boxes are
known, the share found (IoU of at least 0.5 with any) stands beside. lab/self-setting.md has what
came of it.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from map_quality import best_iou
from numpy.typing import NDArray
from PIL import Image

from ccrop_pipeline.images import Sample, open_source, true_boxes
from ccrop_pipeline.images.decode import decode
from ccrop_pipeline.localize import BoxRule, Localizer, boxes_from_heatmaps, choose_map
from ccrop_pipeline.models import open_encoder

Floats = NDArray[np.floating]
SIDES = (0.65, 0.9)  # of a window, as shares of those of the image
WINDOWS = 2
EXPONENT = 0.75
SURE = 0.8  # kappa of boxes that are believed although they spread too far
NEARLY_FULL = 0.97  # mean area beyond which centres say nothing
FIXED = np.arange(0.04, 0.9, 0.02)
BESIDE_THE_MEAN = np.arange(0.0, 0.96, 0.05)
_BATCH = 32


@dataclass
class Maps:
    """Heatmaps of images (n, h, w) and of windows of them (n, WINDOWS, h, w), float16."""

    images: Floats
    inside: Floats
    windows: Floats  # (n, WINDOWS, 4), relative to the image
    size: int


@dataclass
class Row:
    """What is known of one threshold."""

    rule: str
    value: float
    kappa: float
    freedom: float
    mean_area: float
    found: float | None
    mean_iou: float | None


def maps_of(samples: list[Sample], localizer: Localizer, seed: int) -> Maps:
    """Compute the heatmaps of images and of windows."""
    rng, size = np.random.default_rng(seed), localizer.encoder.input_size
    windows = np.empty((len(samples), WINDOWS, 4))
    heat = []
    for start in range(0, len(samples), _BATCH):
        squares = []
        for row, sample in enumerate(samples[start : start + _BATCH], start):
            image = decode(sample.image)
            sides = rng.uniform(*SIDES, (WINDOWS, 2))
            corners = rng.uniform(0, 1 - sides)
            windows[row] = np.concatenate([corners, corners + sides], axis=1)
            whole = np.array([[0.0, 0.0, 1.0, 1.0]])
            for box in np.concatenate([whole, windows[row]]) * (image.size * 2):
                square = image.resize((size, size), Image.Resampling.BILINEAR, box=tuple(box))
                squares.append(np.asarray(square))
        pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
        heat.append(localizer.heatmaps(pixels)[0].cpu().numpy())
    every = np.concatenate(heat).reshape(len(samples), 1 + WINDOWS, *heat[0].shape[1:])
    return Maps(every[:, 0], every[:, 1:], windows, size)


def kappa(boxes: Floats, inside: Floats, windows: Floats) -> float:
    """Return the agreement of the boxes of images with those of their windows, beyond chance."""
    corner = np.tile(windows[..., :2], 2)
    side = np.tile(windows[..., 2:] - windows[..., :2], 2)

    def distance(of: Floats) -> float:
        clipped = ((of[:, None] - corner) / side).clip(0, 1)
        apart = (clipped[..., :2] + clipped[..., 2:] - inside[..., :2] - inside[..., 2:]) / 2
        return float((apart**2).mean())

    others = [distance(np.roll(boxes, shift, axis=0)) for shift in range(1, min(len(boxes), 41))]
    chance = float(np.mean(others))
    return 1 - distance(boxes) / chance if chance else 0.0


def freedom(boxes: Floats) -> float:
    """Return how far boxes spread, over how far those of their size could."""
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return float((np.sqrt(12 * centres.var(axis=0)) / (1 - sides.mean(axis=0) + 1e-6)).mean())


def rows_of(maps: Maps, truths: list[Floats] | None) -> list[Row]:
    """Try every threshold: fixed ones, and those halfway to the image's own mean heat."""
    n, grid = len(maps.images), maps.images.shape[1:]
    flat = maps.inside.reshape(n * WINDOWS, *grid)
    size, rows = min(maps.size, 112), []
    for rule, values in (("fixed", FIXED), ("beside the mean", BESIDE_THE_MEAN)):
        for value in values:
            boxes, inside = (_boxes(heat, rule, value, size) for heat in (maps.images, flat))
            inside = inside.reshape(n, WINDOWS, 4)
            fit = best_iou(boxes, truths) if truths else None
            rows.append(
                Row(
                    rule,
                    round(float(value), 2),
                    kappa(boxes, inside, maps.windows),
                    freedom(boxes),
                    float((boxes[:, 2:] - boxes[:, :2]).prod(axis=1).mean()),
                    None if fit is None else float((fit >= 0.5).mean()),
                    None if fit is None else float(fit.mean()),
                )
            )
    return rows


def _boxes(heat: Floats, rule: str, value: float, size: int) -> Floats:
    heatmaps = torch.from_numpy(heat)
    if rule == "fixed":
        return boxes_from_heatmaps(heatmaps, BoxRule(value), size)[0].double().numpy()
    thresholds = ((heat.mean(axis=(1, 2), dtype=np.float64) + value) / 2).clip(0, 0.99)
    each = [
        boxes_from_heatmaps(one[None], BoxRule(threshold), size)[0]
        for one, threshold in zip(heatmaps, thresholds.tolist(), strict=True)
    ]
    return torch.cat(each).double().numpy()


def chosen(rows: list[Row]) -> Row | None:
    """Return the rule that the two figures choose; None where boxes hang at the borders."""
    beside = [row for row in rows if row.rule == "beside the mean"]
    for row in beside:
        near_enough = row.freedom * max(row.kappa, 0) ** EXPONENT < 1
        if near_enough and row.mean_area < NEARLY_FULL:
            return row
    return beside[-1] if beside[-1].kappa > SURE else None


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
    source, encoder = open_source(options.source), open_encoder(options.model)
    samples = [sample for shard in source.shards for sample in source.read(shard)]
    truths = [true_boxes(s.annotation) if s.annotation else np.empty((0, 4)) for s in samples]
    known = [row for row in range(len(samples)) if len(truths[row])] or [*range(len(samples))]
    taken = np.random.default_rng(options.seed).permutation(known)[: options.images]
    localizer = Localizer(encoder, options.map or choose_map(encoder))
    maps = maps_of([samples[row] for row in taken], localizer, options.seed)
    true = [truths[row] for row in taken] if len(truths[taken[0]]) else None
    rows = rows_of(maps, true)
    if options.out:
        options.out.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    for row in [*rows, None, chosen(rows)]:
        print(row or "", file=sys.stderr)


if __name__ == "__main__":
    main()
