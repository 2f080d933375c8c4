"""Training from Python and from the command line: from what people give to the driver."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from ccrop_pipeline.base import SILENT, Observer, Ranks
from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.boxset import MissingBoxes
from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.images import Source, absolute_spec, open_source
from ccrop_pipeline.localize import open_device
from ccrop_pipeline.recipes import Recipe, load_recipe
from ccrop_pipeline.training.checkpoint import PretrainedEncoder, StartingWeights
from ccrop_pipeline.training.driver import Trainer
from ccrop_pipeline.training.inputs import Inputs, Machine
from ccrop_pipeline.training.run import Run


def train(
    source: Source | str | Path,
    run: str | Path,
    *,
    recipe: Recipe | str,
    boxes: str | Path | None = None,
    missing: MissingBoxes = "error",
    test: Source | str | Path | None = None,
    load: str | Path | None = None,
    init: PretrainedEncoder | str | Path | None = None,
    overwrite: bool = False,
    device: str | torch.device = "auto",
    workers: int | None = None,
    resident_gb: float = 4.0,
    compile: bool = False,
    grad_checkpointing: bool = False,
    stop_on_collapse: bool = False,
    log: Sequence[str] = (),
    observer: Observer = SILENT,
) -> Run:
    """Train on images: warm-up, boxes, training from them, as `ccrop train` does.

    The same call again resumes a run that was stopped.

    Args:
        source: Images to train on, or what `open_source` opens.
        run: Folder of the run.
        recipe: All settings, or the name or TOML file of a recipe; see `load_recipe`.
        boxes: Folder of a box set, or its address, to use from the first epoch on, without warm-up.
        missing: What to do with an image that has no box: "error", or "full" for the full box.
        test: Labelled images to probe on, or what `open_source` opens, of whose splits it is the
            test; None: a sixth of the images that are trained on.
        load: Folder of another run, or checkpoint, whose weights are taken to begin with.
        init: What the encoder has its weights from to begin with, whatever `open_encoder` opens,
            where the recipe's backbone is that network.
        overwrite: Whether to delete a run that is in the folder.
        device: Where to train; "auto" is the GPU where there is one. Of several GPUs each process
            takes its own.
        workers: Loader processes, which on a GPU also decode for refreshes and probes; None: one a
            core on a GPU, else 0.
        resident_gb: Images stay decoded on the device when they need no more than so many
            gigabytes (1e9 bytes); 0: never.
        compile: Whether encoders are compiled by `torch.compile`.
        grad_checkpointing: Whether steps save memory by computing the blocks of the encoder twice.
        stop_on_collapse: Whether to end with an error after an epoch that collapses, or the third
            in a row that does not learn.
        log: Where metrics also go: "tensorboard", "wandb", "mlflow", "trackio".
        observer: Hears how it goes.

    Returns:
        The run, complete.

    Raises:
        CcropError: If the folder holds another run, images or boxes cannot be used, a setting
            makes no sense for them, or the run is to end because it collapses.
    """
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    device, ranks = open_device(device), Ranks.from_environment()
    cores = max(1, (os.cpu_count() or 1) // ranks.local_world_size)
    if workers is None:
        workers = 0 if device.type == "cpu" else cores
    inputs = Inputs(
        open_source(source) if isinstance(source, str | Path) else source,
        boxes=boxes or None,
        missing_boxes=missing,
        test_source=open_source(test, split="test") if isinstance(test, str | Path) else test,
        weights=_starting_weights(load, init),
        spec=absolute_spec(source) if isinstance(source, str | Path) else None,
    )
    machine = Machine(
        device=device,
        workers=workers,
        threads=cores if device.type == "cpu" else max(1, workers),
        resident_gb=resident_gb,
        compile=compile,
        grad_checkpointing=grad_checkpointing,
        log=tuple(log),
    )
    trainer = Trainer(
        inputs,
        local_path(run),
        recipe,
        machine,
        observer,
        overwrite=overwrite,
        stop_on_collapse=stop_on_collapse,
    )
    if ranks.rank == 0:
        for opened in filter(None, (inputs.source, inputs.test_source)):
            observer.opened(opened)
    trainer.train()
    return trainer.run


def _starting_weights(
    load: str | Path | None, init: PretrainedEncoder | str | Path | None
) -> StartingWeights | PretrainedEncoder | None:
    if load and init:
        raise SettingError("`load` and `init` both give the weights to begin with; leave one out.")
    if init:
        return init if isinstance(init, PretrainedEncoder) else PretrainedEncoder(init)
    return StartingWeights(local_path(load)) if load else None
