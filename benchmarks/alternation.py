"""What the alternation of training and refreshes costs: seconds of refresh / seconds of training.

    python -m benchmarks.alternation SOURCE --recipe cifar10-mocov2 --images 1024
    python -m benchmarks.alternation SOURCE --recipe cifar10-mocov2-2core --images 1000 --overlapped

Trains a recipe for a few epochs on some images of a source, with a refresh after every epoch, and
prints a JSON line: seconds of an epoch and of a refresh (medians), their ratio, and what share the
schedule of the recipe adds to its training. With --overlapped, the same run once more with boxes
computed by another process: what an epoch then takes.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ccrop_pipeline.images import Source, open_source, pack
from ccrop_pipeline.recipes import Recipe, RefreshStage, load_recipe, make_plan
from ccrop_pipeline.training import (
    Inputs,
    Machine,
    Metrics,
    Run,
    Trainer,
    follow,
)


def main() -> None:
    """Read the command line and prints a line for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--recipe", action="append", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--overlapped", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        source = open_source(args.source)
        samples = (sample for shard in source.shards for sample in source.read(shard))
        pack(islice(samples, args.images), data, max_images=256)
        for name in args.recipe:
            print(
                json.dumps(measured(open_source(data), Path(folder, name), name, args)), flush=True
            )


def measured(source: Source, folder: Path, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of one recipe."""
    whole = load_recipe(name, args.set)
    each = ["boxes.refresh_at=[]", "boxes.refresh_epochs=[]", "boxes.refresh_every=1"]
    # Of so few epochs: what the learning rate does costs no time.
    each += ["optimizer.lr_warmup_epochs=0", "optimizer.schedule=constant"]
    each += ["optimizer.milestones=[]"]
    recipe = load_recipe(name, [*args.set, *each, f"epochs={args.epochs}", "probe.every=0"])
    epoch, refresh = medians(trained(source, folder / "alternating", recipe))
    refreshes = sum(isinstance(stage, RefreshStage) for stage in make_plan(whole))
    result = {
        "recipe": name,
        "backbone": recipe.backbone,
        "images": args.images,
        "epochs_measured": args.epochs,
        "threads": torch.get_num_threads(),
        "epoch_seconds": round(epoch, 2),
        "refresh_seconds": round(refresh, 2),
        "refresh_per_epoch": round(refresh / epoch, 3),
        "refreshes_of_recipe": refreshes,
        "epochs_of_recipe": whole.epochs,
        "share_of_recipe": round(refreshes * refresh / (whole.epochs * epoch), 4),
    }
    if args.overlapped:
        beside = load_recipe(
            name,
            [*args.set, *each, f"epochs={args.epochs}", "probe.every=0", "boxes.overlapped=true"],
        )
        run = folder / "overlapped"
        follower = multiprocessing.get_context("spawn").Process(target=followed, args=(run,))
        follower.start()
        metrics = trained(source, run, beside)
        follower.join()
        result["overlapped_epoch_seconds"] = round(medians(metrics)[0], 2)
        result["overlapped_refreshes_used"] = len(metrics.records("refresh"))
    return result


def trained(source: Source, folder: Path, recipe: Recipe) -> Metrics:
    """Metrics of a run."""
    Trainer(Inputs(source), folder, recipe, Machine()).train()
    return Metrics(folder)


def medians(metrics: Metrics) -> tuple[float, float]:
    """Seconds of an epoch and of a refresh; the first of each warms up and is left out."""
    epochs, refreshes = (
        [record["seconds"] for record in metrics.records(stage) if "seconds" in record][1:]
        for stage in ("train", "refresh")
    )
    return statistics.median(epochs), statistics.median(refreshes) if refreshes else 0.0


def followed(folder: Path) -> None:
    """Return the other process of an overlapped run."""
    device = torch.device("cpu")
    follow(
        Run(folder),
        open_source,
        device=device,
        threads=torch.get_num_threads(),
        poll_seconds=0.2,
    )


if __name__ == "__main__":
    main()
