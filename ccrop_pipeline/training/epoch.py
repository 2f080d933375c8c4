"""One epoch of training: batches into steps, and what was measured."""

import math
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from ccrop_pipeline.base import Observer, StepReport
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.recipes import Recipe
from ccrop_pipeline.training.learner import Learner
from ccrop_pipeline.training.processes import Processes
from ccrop_pipeline.views import Batch, ViewLoader


def train_epoch(
    epoch: int,
    loader: ViewLoader,
    learner: Learner,
    recipe: Recipe,
    processes: Processes,
    observer: Observer,
) -> dict[str, Any]:
    """Train one epoch.

    Args:
        epoch: Epoch, counted from 0.
        loader: Views of this process.
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
    # Loss and spread of the embeddings; on the device, as each look waits for it.
    sums = torch.zeros(2, device=processes.fabric.device)
    loader.set_epoch(epoch)
    started, lr, batches = time.perf_counter(), 0.0, _Watched(loader)
    for step in range(steps):
        # Taken one by one: a part is not to be in memory before the one before it is done with.
        parts = islice(batches, recipe.accumulate)
        result = learner.step(
            ([view for group in batch.views for view in group] for batch in parts), epoch, step
        )
        lr = result.lr
        sums[0] += result.loss
        sums[1] += result.embedding_std
        seconds = time.perf_counter() - started
        images = (step + 1) * images_a_step
        observer.step(StepReport(epoch, step + 1, steps, images, seconds, batches.waited))
    loss, spread = (processes.mean(sums) / steps).tolist()
    unreadable = processes.sum(sums.new_tensor(batches.unreadable)).item()
    _expect_finite(loss, epoch)
    seconds = time.perf_counter() - started
    return {
        "loss": loss,
        "embedding_std": round(spread, 5),
        "lr": lr,
        "seconds": round(seconds, 3),
        "images_per_s": round(steps * images_a_step / seconds, 1),
        "data_wait": round(batches.waited / seconds, 4),
        "unreadable": int(unreadable),
    }


def _expect_finite(loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise CcropError(
            f"the loss of epoch {epoch + 1} is {loss}. The newest checkpoint is of epoch "
            f"{epoch}; start another run with a lower learning rate (optimizer.lr)"
        )


class _Watched:
    """The batches of an epoch, the seconds that they were waited for, and unreadable images."""

    def __init__(self, loader: ViewLoader) -> None:
        self._batches, self.waited, self.unreadable = iter(loader), 0.0, 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        asked = time.perf_counter()
        batch = next(self._batches)
        self.waited += time.perf_counter() - asked
        self.unreadable += int((~batch.readable).sum())
        return batch
