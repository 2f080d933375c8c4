"""What each way of choosing windows is worth: kNN accuracy, all else equal.

    python benchmarks/crop_rules.py TRAIN TEST OUT --recipe cifar10-simclr-2core --seeds 0 1 2

For each seed one warm-up with random crops is shared by all arms. Then each arm trains on for the
rest of the epochs: with random crops; with boxes from the warm encoder under each rule; and,
under one rule, with the fixed centre box and with the boxes of other images. Prints one JSON line
an arm; a run that was stopped is taken up by the same command.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ccrop_pipeline.boxset import BoxSet, Provenance, write_manifest, write_shard
from ccrop_pipeline.sources import Source, open_source
from ccrop_pipeline.train import Inputs, Machine, Observer, Recipe, Trainer, load_recipe

CENTRE_BOX = (0.25, 0.25, 0.75, 0.75)


def main() -> None:
    """Reads the command line and runs every seed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("train")
    options.add_argument("test")
    options.add_argument("out", type=Path)
    options.add_argument("--recipe", default="cifar10-simclr-2core")
    options.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options.add_argument("--warmup", type=float, default=0.3, help="share of training")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = options.parse_args()
    train, test = open_source(chosen.train), open_source(chosen.test)
    for seed in chosen.seeds:
        settings = [*chosen.set, f"seed={seed}", "probe.every=1000000"]
        compare(train, test, chosen.out / f"seed-{seed}", chosen.recipe, settings, chosen.warmup)


def compare(
    train: Source, test: Source, folder: Path, recipe: str, settings: list[str], warmup: float
) -> None:
    """Trains all arms of one seed."""
    once = [*settings, f"boxes.refresh_at=[{warmup}]", "crop.rule=official"]
    first = load_recipe(recipe, once)
    report(run(train, test, folder / "official", first), "official", first)
    warm = next((folder / "official/checkpoints").iterdir())
    boxes = next((folder / "official/boxes").iterdir())
    random_only = load_recipe(recipe, [*settings, "boxes.refresh_at=[]"])
    report(run(train, test, folder / "random", random_only, warm), "random", random_only)
    arms = {
        "paper": ("paper", boxes),
        "overlap": ("overlap", boxes),
        "centre": ("overlap", centred(boxes, folder / "centre-boxes")),
        "shuffled": ("overlap", shuffled(boxes, folder / "shuffled-boxes", first.seed)),
    }
    for arm, (rule, box_set) in arms.items():
        own = load_recipe(recipe, [*settings, f"crop.rule={rule}"])
        report(run(train, test, folder / arm, own, warm, box_set), arm, own)


def run(
    train: Source,
    test: Source,
    folder: Path,
    recipe: Recipe,
    warm: Path | None = None,
    boxes: Path | None = None,
) -> dict[str, float]:
    """Trains one arm, from the warm checkpoint if given; returns its last record."""
    inputs = Inputs(train, boxes, test_source=test)
    trainer = Trainer(inputs, folder, recipe, Machine(), Observer())
    if warm and not (folder / "checkpoint.pt").exists():
        shutil.copy(warm, folder / "checkpoint.pt")
    trainer.train()
    return trainer.run.metrics()[-1]


def report(record: dict[str, float], arm: str, recipe: Recipe) -> None:
    """Prints one arm as a JSON line."""
    result = {"arm": arm, "seed": recipe.seed, "epochs": record["epoch"], "knn": record["knn"]}
    print(json.dumps(result), flush=True)


def centred(boxes: Path, out: Path) -> Path:
    """A copy of a box set in which every box is the fixed centre box."""
    return rewritten(boxes, out, "centre", lambda rows: np.tile(np.float32(CENTRE_BOX), (rows, 1)))


def shuffled(boxes: Path, out: Path, seed: int) -> Path:
    """A copy of a box set in which images have the boxes of other images."""
    every = np.concatenate([table.boxes for _, table in BoxSet.open(boxes).tables()])
    order = iter(every[np.random.default_rng(seed).permutation(len(every))])
    return rewritten(
        boxes,
        out,
        f"shuffled, seed {seed}",
        lambda rows: np.stack([next(order) for _ in range(rows)]),
    )


def rewritten(boxes: Path, out: Path, rule: str, make: Callable[[int], np.ndarray]) -> Path:
    """A copy of a box set with other boxes: ``make`` gives those of so many rows."""
    if (out / "manifest.json").exists():
        return out
    old = BoxSet.open(boxes)
    provenance = Provenance(None, None, old.manifest.provenance.source, rule)
    names = []
    for name, table in old.tables(heatmaps=False):
        new = replace(table, boxes=make(len(table)), status=np.zeros_like(table.status))
        write_shard(out, name, new, provenance)
        names.append(name)
    write_manifest(out, names, provenance)
    return out


if __name__ == "__main__":
    main()
