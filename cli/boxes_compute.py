"""`ccrop boxes compute`."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.errors import ModelError

from .model_options import MODEL_HELP, MODEL_OPTIONS, expect_model, model_options
from .option_types import FiniteRange
from .printing import note, print_json, warn
from .rank_options import rank_options
from .rule_options import RULE_OPTIONS, expect_one_cut, rule_options

if TYPE_CHECKING:
    from ccrop_pipeline.boxset import BoxSet
    from ccrop_pipeline.localize import Localizer

# Those of ccrop_pipeline.localize.MAPS, which takes torch to import.
MAP_NAMES = (
    *("auto", "sum", "abs", "l2", "pca", "attention", "attention-max", "keys"),
    *("lost", "tokencut"),
)
_LINEAR = "linear:"


class _MapName(click.ParamType[str]):
    """The name of a map, or `linear:` and a file."""

    name = "map"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it is, if it is one of these."""
        if str(value).startswith(_LINEAR) and value != _LINEAR:
            return str(value)
        return click.Choice((*MAP_NAMES, f"{_LINEAR}FILE")).convert(value, param, ctx)


batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=None,
    help="Images per forward pass.  [default: found by itself]",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    default=None,
    help="Images decoded at the same time: by processes for a GPU, else by threads; with --engine "
    "ray, cores of a worker.  [default: all cores, or half of them where the model runs on a CPU]",
)


@click.command("compute")
@click.argument("source")
@click.argument("out")
@click.option("--model", required=True, metavar="MODEL", help=MODEL_HELP)
@model_options
@click.option(
    "--map",
    "map_name",
    type=_MapName(),
    metavar=f"{'|'.join(MAP_NAMES)}|linear:FILE",
    default="auto",
    show_default=True,
    help="From features to heatmap: `sum` is the paper's; `auto` takes what suits the features; "
    "`linear` is a head of FOUND or of `ccrop boxes fit-linear` (docs/boxes.md).",
)
@rule_options
@batch_size_option
@click.option(
    "--form",
    type=click.Choice(["parquet", "webdataset"]),
    default="parquet",
    show_default=True,
    help="Form of the box shards.",
)
@click.option("--no-heatmaps", is_flag=True, help="Keep boxes only.")
@click.option(
    "--max-bad",
    type=FiniteRange(0, 1),
    default=1.0,
    show_default=True,
    help="Greatest share of unreadable images in any shard; 0: none, else at least one image.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace a box set in OUT once the new one is complete."
)
@threads_option
@rank_options("torchrun or SLURM")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="This process, or a Ray cluster.",
)
@click.option(
    "--gpu-share",
    type=FiniteRange(0),
    default=None,
    help="GPUs that each Ray worker asks for; 0.5 lets two share one.  "
    "[default: 1, with --device cpu 0]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def compute(source: str, out: str, as_json: bool, **options: Any) -> None:
    """Compute the box of every image of SOURCE into the box set OUT.

    A run that was stopped is resumed by the same command: complete shards are kept. Several
    processes, started by torchrun, SLURM or with --rank and --world-size, share the shards out;
    the last one completes the set. OUT may be an address that fsspec knows.

    \b
    Example:
      ccrop boxes compute data/photos boxes/first --model runs/first
      ccrop boxes compute data/photos boxes/vit --model timm:vit_small_patch16_224
    """
    from .boxes_audit import show_result

    expect_one_cut(options["threshold"], options["mass"])
    box_set = (
        _with_ray(source, out, options)
        if options["engine"] == "ray"
        else _here(source, out, options)
    )
    if box_set is not None:
        show_result(box_set, as_json)
    elif as_json:
        print_json({"folder": out, "complete": False})


def _here(source: str, out: str, options: dict[str, Any]) -> "BoxSet | None":
    from ccrop_pipeline.base import Ranks

    ranks = Ranks.from_environment(options["rank"], options["world_size"], array=True)
    _expect_model(options)
    from .sources import open_source

    opened = open_source(source)
    from ccrop_pipeline.compute import compute_boxes  # torch, which takes seconds to import

    from .boxes_audit import with_flags
    from .compute_progress import ComputeProgress, count

    localizer = _localizer(options, note)
    if options["map_name"] != "auto" and localizer.warning:  # what auto takes needs none
        warn(with_flags(localizer.warning))
    prefix = f"rank {ranks.rank}: " if ranks.world_size > 1 else ""
    progress = ComputeProgress(count(opened, ranks.world_size), prefix)
    with progress:
        box_set = compute_boxes(
            opened,
            localizer,
            out,
            **_settings(options),
            overwrite=options["overwrite"],
            ranks=ranks,
            observer=progress,
        )
    progress.summary()
    if box_set is None:
        note(f"{prefix}this portion is done; others are still at work on {out}")
    return box_set


def _with_ray(source: str, out: str, options: dict[str, Any]) -> "BoxSet":
    for name in ("rank", "world_size", "overwrite"):
        if options[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} does not go with --engine ray.")
    _expect_model(options)
    from .sources import expect, open_source

    expect(source)
    from ccrop_pipeline.compute.ray_engine import compute_boxes_with_ray

    from .compute_progress import ComputeProgress

    opened, gpus = open_source(source), options["gpu_share"]
    if gpus is None:
        gpus = 0.0 if options["device"] == "cpu" else 1.0
    with ComputeProgress(None) as progress:
        return compute_boxes_with_ray(
            opened,
            partial(_localizer, options),
            out,
            **_settings(options),
            gpu_share=gpus,
            observer=progress,
        )


def _expect_model(options: dict[str, Any]) -> None:
    expect_model(options["model"], options["weights"])
    head = options["map_name"].removeprefix(_LINEAR)
    if head != options["map_name"] and not local_path(head).exists():
        raise ModelError(f"there is no file {head} of a linear head.")


def _localizer(
    options: dict[str, Any], say: Callable[[str], None] = lambda _line: None
) -> "Localizer":
    from ccrop_pipeline.localize import NATURAL_THRESHOLDS, Localizer, choose_map
    from ccrop_pipeline.models.head_files import read_head

    from .model_options import open_model
    from .rule_options import rule_from, rule_of_run

    name, _, file = options["map_name"].partition(":")
    base = None if name in NATURAL_THRESHOLDS else rule_of_run(options["model"])
    rule = rule_from(base, **{option: options[option] for option in RULE_OPTIONS})
    encoder = open_model(say=say, **{option: options[option] for option in MODEL_OPTIONS})
    head = read_head(file, encoder) if file else None
    return Localizer(encoder, choose_map(encoder) if name == "auto" else name, rule, head=head)


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    names = ("batch_size", "threads", "form", "max_bad")
    return {name: options[name] for name in names} | {"heatmaps": not options["no_heatmaps"]}
