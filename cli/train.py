"""`ccrop train`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ccrop_pipeline.train import Recipe, Stage


@click.command("train")
@click.argument("source")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(["mocov2", "simclr"]), help="Method to train.")
@click.option("--recipe", help="TOML file, or name of a recipe that comes with ccrop.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting of the recipe, such as crop.alpha=0.1; may be repeated.",
)
@click.option(
    "--boxes",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Use this box set from the first epoch on, without warm-up.",
)
@click.option(
    "--refresh-every",
    type=click.IntRange(1),
    metavar="EPOCHS",
    help="Compute boxes again every so many epochs, also with --boxes.",
)
@click.option(
    "--missing-boxes",
    type=click.Choice(["error", "full"]),
    default="error",
    show_default=True,
    help="What to do with images that have no box.",
)
@click.option("--test", "test_source", metavar="SOURCE", help="Labelled images to probe on.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--overwrite", is_flag=True, help="Delete the run that lies in RUN.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=None,
    help="Loader processes.  [default: one a core on a GPU, else 0]",
)
@click.option(
    "--resident-gb",
    type=click.FloatRange(0),
    default=4.0,
    show_default=True,
    metavar="GB",
    help="Keep images decoded on the device when they need no more than this; 0: never.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    source: str,
    run: Path,
    method: str | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    boxes: Path | None,
    refresh_every: int | None,
    missing_boxes: str,
    test_source: str | None,
    dry_run: bool,
    overwrite: bool,
    device: str,
    workers: int | None,
    resident_gb: float,
    as_json: bool,
) -> None:
    """Train on the images of SOURCE in the folder RUN: warm-up, boxes, training from them.

    The same command again takes up a run that was stopped. Without --recipe, the recipe that is
    named like the method is used.

    \b
    Example:
      ccrop train data/photos runs/first --recipe cifar10-mocov2-2core --set epochs=5
    """
    from ccrop_pipeline.train import Inputs, Machine, Trainer, make_plan

    from .opening import open_any, open_device
    from .train_progress import TrainProgress

    settings = _recipe(method, recipe, overrides, refresh_every)
    plan = make_plan(settings, boxes)
    if dry_run:
        _print_plan(plan, settings, as_json)
        return
    on = open_device(device)
    cores = os.cpu_count() or 1
    processes = (0 if on.type == "cpu" else cores) if workers is None else workers
    machine = Machine(on, processes, cores, resident_gb)
    inputs = Inputs(
        open_any(source),
        boxes,
        "full" if missing_boxes == "full" else "error",
        open_any(test_source) if test_source else None,
    )
    progress = TrainProgress(settings.epochs)
    trainer = Trainer(inputs, run, settings, machine, progress, overwrite)
    with progress:
        trainer.train()
    _print_result(run, trainer.run.metrics()[-1], as_json)


def _recipe(
    method: str | None, recipe: str | None, overrides: tuple[str, ...], refresh_every: int | None
) -> "Recipe":
    from ccrop_pipeline.train import load_recipe

    name = recipe or method
    if name is None:
        raise click.UsageError("give --recipe or --method")
    own = [f'method.name="{method}"'] if method else []
    every = [f"boxes.refresh_every={refresh_every}"] if refresh_every else []
    return load_recipe(name, [*own, *every, *overrides])


def _print_plan(plan: "list[Stage]", recipe: "Recipe", as_json: bool) -> None:
    from ccrop_pipeline.train import RefreshStage, describe

    if as_json:
        stages = [
            {"stage": "refresh" if isinstance(stage, RefreshStage) else "train", **vars(stage)}
            for stage in plan
        ]
        click.echo(json.dumps({"plan": stages, "recipe": recipe.to_dict()}))
    else:
        for number, stage in enumerate(plan, 1):
            click.echo(f"{number}. {describe(stage)}")


def _print_result(run: Path, record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"run": str(run), **record}))
    else:
        knn = f", kNN {record['knn']:.1%}" if "knn" in record else ""
        click.echo(f"{run}: {record['epoch']} epochs, loss {record['loss']:.4f}{knn}")
