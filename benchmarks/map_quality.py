"""How well the boxes of each map and rule fit true boxes.

    python -m benchmarks.map_quality SOURCE --model SPEC

The heatmaps of each map are computed once, and every rule is tried on them. Prints one JSON line
for each data set, map and rule, and a table to stderr. The share found is that of
`ccrop_pipeline.report.box_quality`: images whose box has an IoU of at least 0.5 with any true box.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from ccrop_pipeline.boxset import FULL_BOX, iou
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Sample, open_source, true_boxes
from ccrop_pipeline.images.squares import resized_images
from ccrop_pipeline.localize import (
    MAPS,
    BoxRule,
    Encoder,
    Localizer,
    boxes_from_heatmaps,
    choose_map,
)
from ccrop_pipeline.models import open_encoder
from ccrop_pipeline.report import CENTRE_70

RULES = {
    **{f"threshold {k:g}": BoxRule(k) for k in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)},
    **{f"mass {q:g}": BoxRule(None, q) for q in (0.5, 0.6, 0.7, 0.8, 0.9)},
    **{f"largest of {k:g}": BoxRule(k, component="largest") for k in (0.1, 0.3, 0.5)},
    "threshold 0.5, margin 0.1": BoxRule(0.5, margin=0.1),
    "threshold 0.5, at least 0.5": BoxRule(0.5, min_size=0.5),
}


def maps_of(encoder: Encoder) -> Iterator[tuple[str, Localizer]]:
    """Return every map that can be made with the encoder, with its name."""
    for name in MAPS:
        try:
            yield name, Localizer(encoder, name)
        except CcropError:
            print(f"no map {name} for this encoder", file=sys.stderr)


def best_iou(boxes: np.ndarray, truths: list[np.ndarray]) -> np.ndarray:
    """IoU of each box with the true box of its image that it fits best."""
    return np.array([iou(box, truth).max() for box, truth in zip(boxes, truths, strict=True)])


def figures(boxes: np.ndarray, truths: list[np.ndarray], groups: list[str]) -> dict[str, dict]:
    """Fit of boxes to true boxes, for each data set."""
    best, areas = best_iou(boxes, truths), (boxes[:, 2:] - boxes[:, :2]).prod(1)
    rows = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)
    return {
        group: {
            "n": len(chosen),
            "found": round(float((best[chosen] >= 0.5).mean()), 3),
            "mean_iou": round(float(best[chosen].mean()), 3),
            "mean_area": round(float(areas[chosen].mean()), 3),
        }
        for group, chosen in sorted(rows.items())
    }


def with_truth(source_spec: str) -> tuple[list[Sample], list[np.ndarray]]:
    """Return the images of a source that have true boxes, and the boxes of each."""
    source = open_source(source_spec)
    samples = [sample for shard in source.shards for sample in source.read(shard)]
    every = [(sample, true_boxes(sample.annotation)) for sample in samples]
    known = [(sample, truth) for sample, truth in every if len(truth)]
    return [sample for sample, _ in known], [truth for _, truth in known]


def all_figures(source_spec: str, encoder: Encoder) -> Iterator[tuple[str, str, dict[str, dict]]]:
    """Name of map, name of rule, and figures by data set; the baselines first."""
    samples, truths = with_truth(source_spec)
    groups = [str(json.loads(s.annotation or b"{}").get("source", "all")) for s in samples]
    for name, box in (("whole image", FULL_BOX), ("centre 70 %", CENTRE_70)):
        yield name, "", figures(np.array([box] * len(truths)), truths, groups)
    decoded = list(
        resized_images((s.image for s in samples), encoder.input_size, batch_size=64, threads=1)
    )
    for name, localizer in maps_of(encoder):
        parts = [localizer.heatmaps(torch.from_numpy(batch.pixels)) for batch in decoded]
        heatmaps = torch.cat(parts)
        for label, rule in RULES.items():
            boxes, _ = boxes_from_heatmaps(heatmaps, rule, encoder.input_size)
            yield name, label, figures(boxes.cpu().numpy(), truths, groups)


def table(rows: list[tuple[str, str, dict[str, dict]]]) -> str:
    """Return the figures as a Markdown table."""
    groups = list(rows[0][2])
    heads = " | ".join(f"{group} found, mean IoU, area" for group in groups)
    lines = [f"| map | rule | {heads} |", "|---|---|" + "---|" * len(groups)]
    for name, rule, by_group in rows:
        cells = " | ".join(
            f"{f['found']:.3f}, {f['mean_iou']:.3f}, {f['mean_area']:.2f}"
            for f in by_group.values()
        )
        lines.append(f"| {name} | {rule} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("source")
    options.add_argument("--model", required=True)
    options.add_argument("--layer")
    options.add_argument("--input-size", type=int)
    chosen = options.parse_args()
    encoder = open_encoder(chosen.model, layer=chosen.layer, input_size=chosen.input_size)
    print(f"--map auto: {choose_map(encoder)}", file=sys.stderr)
    rows = []
    for name, rule, by_group in all_figures(chosen.source, encoder):
        rows.append((name, rule, by_group))
        for group, values in by_group.items():
            print(json.dumps({"source": group, "map": name, "rule": rule, **values}), flush=True)
    print(table(rows), file=sys.stderr)
