"""What else boxes could be compared with than two windows.

    python -m benchmarks.other_windows SOURCE HEAT.npz

HEAT is what `benchmarks.better_heat` has kept of the same images with `--heat HEAT`: heatmaps of
each image, of two windows of it, and of the mirror images of all three. The rule sets itself by two
windows, by either alone, by the mirror image, or by all; a JSON line each has what was chosen and
what it finds.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.better_heat import CENTRE_80, Profiles, windows_of
from benchmarks.map_quality import best_iou, with_truth
from ccrop_pipeline.boxset import RuleChoice
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
        moved = found[at or 0] * (1 - weight) + weight * np.array(CENTRE_80)
        fits = best_iou(moved, truths)
        yield {
            "by": way,
            "threshold": THRESHOLDS[at or 0],
            "worthless": at is None,
            "kappa": round(kappas[at or 0], 4),
            "found": round(float((fits >= 0.5).mean()), 4),
            "mean_iou": round(float(fits.mean()), 4),
            "n": len(heat),
        }


def main() -> None:
    """Print a JSON line for each map and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("heat", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="that of benchmarks.better_heat")
    options = parser.parse_args()
    (_, known), raw = with_truth(options.source), np.load(options.heat)
    order = np.random.default_rng(options.seed).permutation(len(known))
    for of in dict.fromkeys(name.split()[0] for name in raw.files):
        heat, mirror = raw[f"{of} plain"], raw[f"{of} mirror"]
        truths = [known[row] for row in order[: len(heat)]]
        for line in chosen(heat, mirror, windows_of(len(heat), options.seed), truths):
            print(json.dumps({"map": of, **line}), flush=True)


if __name__ == "__main__":
    main()
