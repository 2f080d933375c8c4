"""What else boxes could be compared with than two windows: other_windows.py SOURCE HEAT.npz.

HEAT is what `better_heat.py SOURCE --model SPEC --heat HEAT` has kept of the same images: heatmaps
of each image, of two windows of it, and of the mirror images of all three. The rule sets itself by
two windows, by either alone, by the mirror image, or by all; a JSON line each has what was chosen
and what it finds.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from better_heat import Profiles, windows_of
from numpy.typing import NDArray

from ccrop_pipeline.boxset import RuleChoice, iou
from ccrop_pipeline.images import open_source, true_boxes
from ccrop_pipeline.localize.rule_choice import (
    MEAN_SHARE,
    THRESHOLDS,
    first_fit,
    freedom,
    kappa,
    weight_of,
)

Floats = NDArray[np.floating]
MOST = 400  # images that choose
WAYS = {  # places among the image mirrored, and its windows
    "two windows": [1, 2],
    "the first window": [1],
    "the second window": [2],
    "the mirror image": [0],
    "windows and mirror image": [0, 1, 2],
}


def chosen(heat: Floats, mirror: Floats, windows: Floats, truths: list[Floats]) -> Iterator[dict]:
    """Yield what each way chooses.

    Args:
        heat: Of images and two windows of them, `(n, 3, h, w)`.
        mirror: Of their mirror images, mirrored back.
        windows: Where they are, `(n, 3, 4)`, the first the whole image.
        truths: True boxes of each image.
    """
    parts = [mirror[:, 0], heat[:, 1], heat[:, 2]]
    whole, *others = (Profiles.of(part.astype(np.float32)) for part in (heat[:, 0], *parts))

    def boxes(of: Profiles, threshold: float) -> Floats:
        return of.boxes((of.means * MEAN_SHARE + threshold).clip(0, 0.99))

    found = [boxes(whole, threshold) for threshold in THRESHOLDS]
    inside = [
        np.stack([boxes(other, threshold) for other in others], axis=1) for threshold in THRESHOLDS
    ]
    area = tuple(float((each[:, 2:] - each[:, :2]).prod(1).mean()) for each in found)
    free = tuple(freedom(each[:MOST]) for each in found)
    for way, places in WAYS.items():
        kappas = tuple(
            kappa(each[:MOST], other[:MOST, places], windows[:MOST, places])
            for each, other in zip(found, inside, strict=True)
        )
        choice = RuleChoice(len(heat), len(places), False, THRESHOLDS, kappas, free, area)
        at = first_fit(choice)
        weight = weight_of(choice)
        moved = found[at or 0] * (1 - weight) + weight * np.array([0.1, 0.1, 0.9, 0.9])
        fits = [iou(b, t).max() for b, t in zip(moved, truths, strict=True)]
        yield {
            "by": way,
            "threshold": THRESHOLDS[at or 0],
            "worthless": at is None,
            "kappa": round(kappas[at or 0], 4),
            "found": round(float((np.array(fits) >= 0.5).mean()), 4),
            "mean_iou": round(float(np.mean(fits)), 4),
            "n": len(heat),
        }


def main() -> None:
    """Print a JSON line for each map and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("heat", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="that of better_heat.py")
    options = parser.parse_args()
    source, raw = open_source(options.source), np.load(options.heat)
    every = [
        true_boxes(s.annotation) if s.annotation else np.empty((0, 4))
        for shard in source.shards
        for s in source.read(shard)
    ]
    known = [boxes for boxes in every if len(boxes)]
    order = np.random.default_rng(options.seed).permutation(len(known))
    for of in dict.fromkeys(name.split()[0] for name in raw.files):
        heat, mirror = raw[f"{of} plain"], raw[f"{of} mirror"]
        truths = [known[row] for row in order[: len(heat)]]
        for line in chosen(heat, mirror, windows_of(len(heat), options.seed), truths):
            print(json.dumps({"map": of, **line}), flush=True)


if __name__ == "__main__":
    main()
