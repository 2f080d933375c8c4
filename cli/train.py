"""`ccrop train`."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ccrop_pipeline.errors import ModelError, counted

from .model_options import device_option, expect_model
from .option_types import FiniteRange, LocalPath, complete_recipe
from .printing import note, print_json, print_line, warn

if TYPE_CHECKING:
    from ccrop_pipeline.recipes import Recipe, Stage
    from ccrop_pipeline.training import PretrainedEncoder, Run

# `METHODS` of the package, which a test compares: importing them takes seconds.
METHODS = (
    "barlowtwins",
    "byol",
    "dino",
    "lejepa",
    "mocov1",
    "mocov2",
    "mocov3",
    "simclr",
    "simsiam",
    "vicreg",
)
# Those of `ccrop_pipeline.training.loggers`, likewise.
LOGGERS = ("tensorboard", "wandb", "mlflow", "trackio")


class _Train(click.Command):
    """Names the setting of the recipe that was given as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = [*args, "VALUE"]
        for at, word in enumerate(args[:-2]):
            name, value = args[at + 1 : at + 3]
            if word == "--set" and "=" not in name and not value.startswith("--"):
                raise click.UsageError(
                    f"A setting and its value are one word: --set {name}={value}", ctx
                )
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            setting = _setting_called(error.option_name.lstrip("-").replace("-", "_"))
            if setting is None:
                raise
            places = [
                at for at, word in enumerate(given) if word.split("=")[0] == error.option_name
            ]
            _, _, value = given[places[0]].partition("=")
            raise click.UsageError(
                f"No such option '{error.option_name}'. It is a setting of the recipe: "
                f"--set {setting}={value or given[places[0] + 1]}",
                ctx,
            ) from None


def _setting_called(name: str) -> str | None:
    from ccrop_pipeline.base.values import to_plain
    from ccrop_pipeline.recipes import load_recipe

    settings: dict[str, Any] = to_plain(load_recipe("mocov2"))
    for part, value in settings.items():
        if part == name:
            return part
        if isinstance(value, dict) and name in value:
            return f"{part}.{name}"
    return None


@click.command("train", cls=_Train)
@click.argument("source")
@click.argument("run", type=LocalPath())
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="Method to train, by the recipe of its name: for ResNets. Transformers "
    "have recipes of their own, such as mocov3-vit.",
)
@click.option(
    "--recipe",
    metavar="RECIPE",
    shell_complete=complete_recipe,
    help="TOML file, or name of a recipe that comes with ccrop (`ccrop recipes` lists them).",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting of the recipe, such as crop.alpha=0.1; may be repeated.",
)
@click.option(
    "--boxes",
    metavar="PLACE",
    help="Use this box set, a folder or an address, from the first epoch on, without warm-up.",
)
@click.option(
    "--refresh-every",
    type=click.IntRange(1),
    metavar="EPOCHS",
    help="Compute boxes again every so many epochs, also with --boxes.",
)
@click.option(
    "--missing-boxes",
    "missing",
    type=click.Choice(["error", "full"]),
    default="error",
    show_default=True,
    help="What to do with images that have no box.",
)
@click.option("--test", metavar="SOURCE", help="Labelled images to probe on.")
@click.option(
    "--load",
    type=LocalPath(exists=True),
    metavar="RUN",
    help="Begin with the weights of another run or checkpoint, at epoch 0.",
)
@click.option(
    "--init",
    metavar="MODEL",
    help="Begin with an encoder whose weights are from elsewhere: whatever `--model` is in other "
    "commands. The backbone is then that of MODEL, unless --set backbone=... names one.",
)
@click.option(
    "--weights",
    metavar="FILE",
    help="With --init timm:NAME or torchvision:NAME: a file of weights.",
)
@click.option("--partial", is_flag=True, help="Accept weights that fit the backbone only in part.")
@click.option("--unsafe", is_flag=True, help="Let the file of --init run code of its own.")
@click.option("--overwrite", is_flag=True, help="Delete the run that is in RUN.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@device_option
@click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    default=None,
    help="Loader processes; on a GPU they decode for refreshes and probes, too.  [default: one "
    "per core with a GPU, else 0]",
)
@click.option(
    "--resident-gb",
    type=FiniteRange(0),
    default=4.0,
    show_default=True,
    metavar="GB",
    help="Keep images decoded on the device when they need no more than this; 0: never.",
)
@click.option("--compile", is_flag=True, help="Compile the encoders with torch.compile.")
@click.option(
    "--grad-checkpointing",
    is_flag=True,
    help="Save memory: compute the blocks of the encoder a second time for the backward pass.",
)
@click.option(
    "--stop-on-collapse",
    is_flag=True,
    help="End the run after an epoch that collapses, or the third in a row that does not learn.",
)
@click.option(
    "--log",
    multiple=True,
    type=click.Choice(LOGGERS),
    help="Write metrics there as well; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(source: str, run: Path, as_json: bool, dry_run: bool, **options: Any) -> None:
    """Train on the images of SOURCE in the folder RUN: warm-up, boxes, training from them.

    The same command again resumes a run that was stopped; --load begins another run with its
    weights; --overwrite begins afresh. Without --recipe, the recipe that is named like the method
    is used. Several processes are started by torchrun or srun.

    \b
    Example:
      ccrop train data/photos runs/first --recipe photos-simclr-2core --set epochs=5
    """
    from ccrop_pipeline.recipes import advice

    own = {name: options.pop(name) for name in ("method", "recipe", "overrides", "refresh_every")}
    init = _pretrained(**{name: options.pop(name) for name in _INIT})
    recipe, plan = recipe_and_plan(**own, boxes=options["boxes"], init=init)
    options["init"] = init
    given = {"boxes": bool(options["boxes"]), "init": bool(init or options["load"])}
    if dry_run:
        if (images := _count(source)) and (hint := advice(recipe, images, **given)):
            warn(re.sub(r"`(\w+)`", r"--\1", hint))
        _print_plan(plan, recipe, as_json)
        return
    _expect_inputs(source, run, options)
    # All that can be said without torch has been said: it takes seconds to import.
    from ccrop_pipeline import training
    from ccrop_pipeline.base import Ranks
    from ccrop_pipeline.training.loggers import how_to_open

    from .train_progress import TrainProgress

    ranks = Ranks.from_environment()
    machine = _machine(options["device"], ranks.world_size)
    about = partial(advice, recipe, **given)
    try:
        with TrainProgress(plan, machine=machine, advice=about) as progress:
            done = training.train(source, run, recipe=recipe, observer=progress, **options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_what_is_kept(training.Run(run))) from None
    if ranks.rank == 0:
        if not progress.trained:
            note(f"{run} was complete before: nothing was left to train.")
        _print_result(run, _record_of(done, recipe.epochs), as_json)
        for name in options["log"]:
            note(f"{name}: {how_to_open(name, done)}")


def _what_is_kept(run: "Run") -> str:
    if not run.trained:
        return "No epoch was finished: the same command begins with the first one again."
    # Loader processes that a signal ends as well may break off the reading of the checkpoint.
    epoch = epochs_trained(run)
    where = f"after epoch {epoch}" if epoch else "from there"
    return f"The same command, without --overwrite, goes on {where}."


def epochs_trained(run: "Run") -> int:
    """Return the epochs of the newest checkpoint that is intact, 0 where none is.

    It alone tells: of a run that was killed, the metrics may have an epoch more, or fewer.
    """
    from ccrop_pipeline.training.checkpoint import load_newest

    try:
        found = load_newest(run.folder)
    except ModelError:
        return 0
    return found[0].epoch if found else 0


def _record_of(run: "Run", epoch: int) -> dict[str, Any]:
    """Return the record of the last epoch; only its number where the record is lost."""
    from ccrop_pipeline.training.metrics import METRICS

    record = next((each for each in run.metrics()[-1:] if each["epoch"] == epoch), {})
    if isinstance(record.get("loss"), int | float):
        return record
    warn(
        f"{run.folder / METRICS} has no loss of the last epoch: it was lost, or changed since. The "
        "weights of the run are not concerned."
    )
    return {"epoch": epoch}


_INIT = ("init", "weights", "partial", "unsafe")


def _pretrained(
    init: str | None, weights: str | None, partial: bool, unsafe: bool
) -> "PretrainedEncoder | None":
    if init is None:
        if weights or partial or unsafe:
            raise click.UsageError("--weights, --partial and --unsafe go with --init.")
        return None
    expect_model(init, weights)
    from ccrop_pipeline.training import PretrainedEncoder

    return PretrainedEncoder(init, weights, unsafe=unsafe, partial=partial)


def _machine(device: str, processes: int) -> str:
    from ccrop_pipeline.localize import open_device

    kind = "CPU" if open_device(device).type == "cpu" else "GPU"
    return f"this {kind}" if processes == 1 else f"{processes} {kind}s"


def recipe_and_plan(
    method: str | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    refresh_every: int | None,
    boxes: str | None,
    init: "PretrainedEncoder | None",
    say: Callable[[str], None] = note,
) -> "tuple[Recipe, list[Stage]]":
    """Return the recipe that the options of a command make, and its plan."""
    name = recipe or method
    if name is None:
        raise click.UsageError(
            "give --recipe or --method. `ccrop recipes` lists them, and `ccrop quickstart SOURCE` "
            "names one for these images."
        )
    from ccrop_pipeline.recipes import load_recipe, make_plan, shorter_schedules

    own = [f'method.name="{method}"'] if method else []
    if refresh_every:
        own += ["boxes.refresh_at=[]", "boxes.refresh_epochs=[]"]
        own += [f"boxes.refresh_every={refresh_every}"]
    if init and not any(override.startswith("backbone") for override in overrides):
        from ccrop_pipeline.recipes.recipe import LIBRARIES

        spec = str(init.spec)
        backbone = spec if spec.startswith(LIBRARIES) else init.backbone
        own += [f'backbone="{backbone}"'] if backbone else []
    found = load_recipe(name, [*own, *overrides])
    if shorter := shorter_schedules(found, [*own, *overrides], boxes):
        say(f"So few epochs need other schedules than the recipe has: {', '.join(shorter)}.")
        found = load_recipe(name, [*own, *overrides, *shorter])
    return found, make_plan(found, boxes)


def _expect_inputs(source: str, run: Path, options: dict[str, Any]) -> None:
    from ccrop_pipeline.base.files import expect_free
    from ccrop_pipeline.boxset import BoxSet

    from .sources import expect

    for images in filter(None, (source, options["test"])):
        expect(images)
    if options["load"]:
        expect_model(str(options["load"]))
    if options["boxes"]:
        BoxSet.open(options["boxes"])
    if not (run / "run.json").is_file():
        expect_free(run, "run")
    elif not options["overwrite"]:
        from ccrop_pipeline.models.sealed_files import expect_one_intact
        from ccrop_pipeline.training import Run

        Run(run).recipe()
        expect_one_intact(run)


_LOOKED_INTO = 2 << 30  # bytes of tars


def _count(spec: str) -> int | None:
    """Return how many images a source has; None where that is not told at a look.

    Raises:
        CcropError: If it is on a local disk, and cannot be trained on.
    """
    from ccrop_pipeline.base.addresses import is_address, local_path
    from ccrop_pipeline.images import TarSource, open_source

    from .sources import expect

    expect(spec)
    if is_address(spec) or not local_path(spec).exists():
        return None  # it is elsewhere, or the name of a data set
    source = open_source(spec)
    # Of tars every header is read, so only where they can hold few images.
    tars = source.paths if isinstance(source, TarSource) else ()
    if sum(path.stat().st_size for path in tars) > _LOOKED_INTO:
        return None
    return len(source.index())


def _print_plan(plan: "list[Stage]", recipe: "Recipe", as_json: bool) -> None:
    from ccrop_pipeline.recipes import as_record, describe

    if as_json:
        stages = [as_record(stage) for stage in plan]
        print_json({"plan": stages, "recipe": recipe.to_dict()})
    else:
        for number, stage in enumerate(plan, 1):
            print_line(f"{number}. {describe(stage)}")


def _print_result(run: Path, record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"run": str(run), **record})
    else:
        from .train_progress import knn_of

        loss = f", loss {record['loss']:.4f}" if "loss" in record else ""
        knn = f", {knn_of(record)}" if "knn" in record else ""
        print_line(f"{run}: {counted(record['epoch'], 'epoch')}{loss}{knn}")
