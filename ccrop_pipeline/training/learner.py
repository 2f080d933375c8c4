"""A method with its optimizer: one step of both, and an epoch of steps."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ccrop_pipeline.base import Observer, StepReport
from ccrop_pipeline.errors import ModelError
from ccrop_pipeline.localize.stochastic_depth import share_paths
from ccrop_pipeline.methods import Method, build_method, embedding_std, gathered
from ccrop_pipeline.models.own_checkpoints import unfitting
from ccrop_pipeline.models.trainable import open_backbone
from ccrop_pipeline.recipes import Recipe
from ccrop_pipeline.training.checkpoint import PretrainedEncoder, StartingWeights
from ccrop_pipeline.training.collapse import NewestRows, rankme
from ccrop_pipeline.training.optimizers import (
    build_optimizer,
    clip_each,
    expect_kept,
    set_rates,
)
from ccrop_pipeline.training.processes import Processes
from ccrop_pipeline.views import Batch, ViewLoader


class StepResult(NamedTuple):
    """What one step gave in this process: its loss and the spread of its embeddings."""

    loss: Tensor
    embedding_std: Tensor
    lr: float


class Learner:
    """All that learns.

    Args:
        recipe: Method, optimizer and seed.
        processes: Devices, precision, and the other processes.
        steps_per_epoch: Steps of an epoch.
        weights: What the weights start from; None: fresh random ones.
        compiled: Whether encoders are compiled.
        checkpointing: Whether the blocks of the encoder are computed again for the backward pass.

    Attributes:
        method: The method itself, without what spreads it over processes.
        started_from: What was loaded, in a line for people; None where nothing was.
        unreadable: Key and reason of the images of the last epoch that cannot be decoded.
    """

    def __init__(
        self,
        recipe: Recipe,
        processes: Processes,
        steps_per_epoch: int,
        *,
        weights: StartingWeights | PretrainedEncoder | None = None,
        compiled: bool = False,
        checkpointing: bool = False,
    ) -> None:
        self._recipe, self._processes, self._fabric = recipe, processes, processes.fabric
        self._steps_per_epoch = steps_per_epoch
        self.unreadable: list[str] = []
        self._rows = NewestRows()
        torch.manual_seed(recipe.seed)
        backbone = open_backbone(
            recipe.backbone, recipe.sizes(), drop_path_rate=recipe.drop_path_rate
        )
        backbone.freeze(recipe.freeze)
        method = build_method(recipe.method, backbone)
        self.started_from = (
            weights.load_into(method, recipe.method.name, recipe.backbone) if weights else None
        )
        method = method.to(self._fabric.device)
        if method.backbone.channels_last:
            method = method.to(memory_format=torch.channels_last)
        if processes.count > 1:
            method.synchronise_batch_norm()
            images = recipe.batch_size // processes.count // recipe.accumulate
            share_paths(method, images, rank=processes.ranks.rank, count=processes.count)
        if checkpointing:
            method.backbone.checkpoint_blocks()
        if compiled:
            _compile(method)
        self.method: Method = method
        self._optimizer = build_optimizer(method, recipe.optimizer)
        self._wrapped, self._stepper = self._fabric.setup(method, self._optimizer)

    def step(self, parts: Iterable[Sequence[Tensor]], epoch: int, step: int) -> StepResult:
        """Learn from one batch.

        Args:
            parts: Views of the batch, in as many parts as the recipe accumulates; each view is
                normalised float32 (B, 3, S, S).
            epoch: Epoch, counted from 0.
            step: Step of the epoch, counted from 0.
        """
        recipe, number = self._recipe, epoch * self._steps_per_epoch + step
        steps = recipe.epochs * self._steps_per_epoch
        lr = set_rates(
            self._optimizer,
            recipe.optimizer,
            step=number,
            steps=steps,
            steps_per_epoch=self._steps_per_epoch,
        )
        # The same in every process, so that a batch is shuffled alike, and the same again when
        # a run is resumed: no state of a generator has to be kept.
        torch.manual_seed(recipe.seed * 1_000_003 + number)
        if not self.method.training:
            self.method.train()
        self.method.before_step(epoch, number / steps)
        losses, spreads = [], []
        for at, views in enumerate(parts, start=1):
            apart = at < recipe.accumulate and self._processes.count > 1
            with self._fabric.no_backward_sync(self._wrapped, enabled=apart):
                loss, embeddings = self._wrapped(views)
                self._fabric.backward(loss / recipe.accumulate)
            losses.append(loss.detach())
            spreads.append(embedding_std(embeddings))
            self._rows.add(embeddings)
        self.method.after_backward(epoch)
        longest = recipe.optimizer.clip_norm
        if longest and recipe.optimizer.clip_each:
            clip_each(self.method.parameters(), longest)
        elif longest:
            # An epoch asks its loss whether all was finite; to ask at each step, a GPU would wait.
            self._fabric.clip_gradients(
                self._wrapped, self._stepper, max_norm=longest, error_if_nonfinite=False
            )
        self._stepper.step()
        self._stepper.zero_grad()
        return StepResult(torch.stack(losses).mean(), torch.stack(spreads).mean(), lr)

    def train_epoch(self, epoch: int, loader: ViewLoader, observer: Observer) -> dict[str, Any]:
        """Train one epoch.

        Args:
            epoch: Epoch, counted from 0.
            loader: Views of this process, in parts of the batches.
            observer: Told of every step.

        Returns:
            Record of the epoch: means over its steps and all processes.
        """
        steps, processes = self._steps_per_epoch, self._processes
        images_a_step = self._recipe.batch_size // processes.count * processes.count
        # Loss and spread of the embeddings; on the device, as each look waits for it.
        sums = torch.zeros(2, device=self._fabric.device)
        loader.set_epoch(epoch)
        self._rows = NewestRows(1 / processes.count)
        started, lr, batches = time.perf_counter(), 0.0, _Watched(loader)
        for step in range(steps):
            # Taken one by one: a part must not be in memory before the last one is done with.
            parts = islice(batches, self._recipe.accumulate)
            views = ([view for group in batch.views for view in group] for batch in parts)
            result = self.step(views, epoch, step)
            lr = result.lr
            sums[0] += result.loss
            sums[1] += result.embedding_std
            seconds, images = time.perf_counter() - started, (step + 1) * images_a_step
            observer.step(StepReport(epoch, step + 1, steps, images, seconds, batches.waited))
        loss, spread = (processes.mean(sums) / steps).tolist()
        unreadable = processes.sum(sums.new_tensor(batches.unreadable)).item()
        found = processes.together(batches.problems) if unreadable else {}
        self.unreadable = [*found.values()]
        rows = gathered(self._rows.all())
        rank = rankme(rows) if processes.first else math.nan
        seconds = time.perf_counter() - started
        return {
            "loss": loss,
            "embedding_std": round(spread, 5),
            "rankme": round(rank, 2) if math.isfinite(rank) else None,
            "rankme_limit": min(rows.shape),
            "lr": lr,
            "seconds": round(seconds, 3),
            "images_per_s": round(steps * images_a_step / seconds, 1),
            "data_wait": round(batches.waited / seconds, 4),
            "unreadable": int(unreadable),
        }

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the state dicts of the method and of the optimizer."""
        return self.method.state_dict(), self._optimizer.state_dict()

    def load(self, method: dict[str, Any], optimizer: dict[str, Any]) -> None:
        """Load a state.

        Raises:
            ModelError: If it is of another method or optimizer.
        """
        own = self._optimizer.state_dict()["param_groups"]
        try:
            self.method.load_state_dict(method)
            self._optimizer.load_state_dict(optimizer)
            expect_kept(self._optimizer, self._recipe.optimizer.name)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError(
                f"the checkpoint does not fit this recipe: {unfitting(error)}."
            ) from error
        for group, settings in zip(self._optimizer.param_groups, own, strict=True):
            # The recipe's, whatever the checkpoint says, but for what each step sets anew:
            # the same checkpoint may be saved again.
            group |= {name: value for name, value in settings.items() if name not in _LOADED}


_LOADED = ("params", "lr", "weight_decay")


def _compile(method: Method) -> None:
    for encoder in (method.backbone, method.momentum_backbone):
        if encoder is not None:
            encoder.compile()


class _Watched:
    """The batches of an epoch, the seconds that they were waited for, and unreadable images."""

    def __init__(self, loader: ViewLoader) -> None:
        self._batches, self.waited, self.unreadable = iter(loader), 0.0, 0
        self.problems: dict[int, str] = {}

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        asked = time.perf_counter()
        batch = next(self._batches)
        self.waited += time.perf_counter() - asked
        self.unreadable += int((~batch.readable).sum())
        self.problems |= batch.problems
        return batch
