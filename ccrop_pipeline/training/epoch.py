"""One epoch of training: batches into steps, and what was measured."""

import math
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.recipes import Recipe
from ccrop_pipeline.training.learner import Learner
from ccrop_pipeline.training.observer import Observer, StepReport
from ccrop_pipeline.training.processes import Processes
from ccrop_pipeline.views import Augment, Batch, Loader


def train_epoch(
    epoch: int,
    loader: Loader,
    augment: Augment,
    learner: Learner,
    recipe: Recipe,
    processes: Processes,
    observer: Observer,
) -> dict[str, Any]:
    """Train one epoch.

    Args:
        epoch: Epoch, counted from 0.
        loader: Batches of this process.
        augment: Colours and flips.
        learner: What learns.
        recipe: Batch size and accumulation.
        processes: The others.
        observer: Told of every step.

    Returns:
        Record of the epoch: means over its steps and all processes.

    Raises:
        CcropError: If the loss is not finite.
    """
    steps = len(loader) // recipe.accumulate
    images_a_step = recipe.batch_size // processes.count * processes.count
    # Loss, spread of the embeddings, unreadable images; on the device, as each look waits for it.
    sums = torch.zeros(3, device=processes.fabric.device)
    batches = _timed(loader.epoch(epoch))
    started, waited, lr = time.perf_counter(), 0.0, 0.0
    for step in range(steps):
        parts = list(islice(batches, recipe.accumulate))
        waited += sum(wait for _, wait in parts)
        views = ([v for group in augment(batch, epoch) for v in group] for batch, _ in parts)
        result = learner.step(views, epoch, step)
        lr = result.lr
        sums[0] += result.loss
        sums[1] += result.embedding_std
        sums[2] += sum(int((~batch.readable).sum()) for batch, _ in parts)
        seconds = time.perf_counter() - started
        images = (step + 1) * images_a_step
        observer.step(StepReport(epoch, step + 1, steps, images, seconds, waited))
    loss, spread = (processes.mean(sums[:2]) / steps).tolist()
    unreadable = processes.sum(sums[2:]).item()
    _expect_finite(loss, epoch)
    seconds = time.perf_counter() - started
    return {
        "loss": loss,
        "embedding_std": round(spread, 5),
        "lr": lr,
        "seconds": round(seconds, 3),
        "images_per_s": round(steps * images_a_step / seconds, 1),
        "data_wait": round(waited / seconds, 4),
        "unreadable": int(unreadable),
    }


def _expect_finite(loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise CcropError(
            f"the loss of epoch {epoch + 1} is {loss}. The newest checkpoint is of epoch "
            f"{epoch}; start another run with a lower learning rate (optimizer.lr)."
        )


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Return the batches, each with the seconds that it was waited for."""
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - asked
