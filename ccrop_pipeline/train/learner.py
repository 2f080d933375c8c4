"""A method with its optimizer, and one step of both."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.methods import Method, build_method, embedding_std
from ccrop_pipeline.train.optimizers import build_optimizer, set_rates
from ccrop_pipeline.train.processes import Processes
from ccrop_pipeline.train.recipe import Recipe
from ccrop_pipeline.train.starting import StartingWeights


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

    Attributes:
        method: The method itself, without what spreads it over processes.
        started_from: What was loaded, in a line for people; None where nothing was.

    Raises:
        CcropError: When boxes are to come from a momentum encoder that the method has not.
    """

    def __init__(
        self,
        recipe: Recipe,
        processes: Processes,
        steps_per_epoch: int,
        weights: StartingWeights | None = None,
        compiled: bool = False,
    ) -> None:
        self._recipe, self._fabric = recipe, processes.fabric
        self._alone = processes.count == 1
        self._steps_per_epoch = steps_per_epoch
        torch.manual_seed(recipe.seed)
        method = build_method(recipe.method, recipe.backbone)
        _expect_encoder(recipe, method)
        self.started_from = (
            weights.give_to(method, recipe.method.name, recipe.backbone) if weights else None
        )
        method = method.to(self._fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if processes.count > 1:
            method.synchronise_batch_norm()
        if compiled:
            _compile(method)
        self.method: Method = method
        self._optimizer = build_optimizer(method, recipe.optimizer)
        self._wrapped, self._stepper = self._fabric.setup(method, self._optimizer)

    def step(self, parts: Iterable[Sequence[Tensor]], epoch: int, step: int) -> StepResult:
        """Learns from one batch.

        Args:
            parts: Views of the batch, in as many parts as the recipe accumulates; each view is
                normalised float32 (B, 3, S, S).
            epoch: Epoch, counted from 0.
            step: Step of the epoch, counted from 0.
        """
        recipe, number = self._recipe, epoch * self._steps_per_epoch + step
        steps = recipe.epochs * self._steps_per_epoch
        lr = set_rates(self._optimizer, recipe.optimizer, number, steps, self._steps_per_epoch)
        # The same in every process, so that a batch is shuffled alike, and the same again when
        # a run is taken up: no state of a generator has to be kept.
        torch.manual_seed(recipe.seed * 1_000_003 + number)
        if not self.method.training:
            self.method.train()
        self.method.before_step(epoch, number / steps)
        losses, spreads = [], []
        for at, views in enumerate(parts, start=1):
            apart = at < recipe.accumulate and not self._alone
            with self._fabric.no_backward_sync(self._wrapped, enabled=apart):
                loss, embeddings = self._wrapped(views)
                self._fabric.backward(loss / recipe.accumulate)
            losses.append(loss.detach())
            spreads.append(embedding_std(embeddings))
        self.method.after_backward(epoch)
        if longest := recipe.optimizer.clip_norm:
            # An epoch asks its loss whether all was finite; to ask at each step, a GPU would wait.
            self._fabric.clip_gradients(
                self._wrapped, self._stepper, max_norm=longest, error_if_nonfinite=False
            )
        self._stepper.step()
        self._stepper.zero_grad()
        return StepResult(torch.stack(losses).mean(), torch.stack(spreads).mean(), lr)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """State dicts of the method and of the optimizer."""
        return self.method.state_dict(), self._optimizer.state_dict()

    def load(self, method: dict[str, Any], optimizer: dict[str, Any]) -> None:
        """Takes up a state."""
        self.method.load_state_dict(method)
        self._optimizer.load_state_dict(optimizer)


def _expect_encoder(recipe: Recipe, method: Method) -> None:
    if recipe.boxes.refresh_from == "momentum" and method.momentum_backbone is None:
        raise CcropError(
            f"boxes.refresh_from is 'momentum', but {recipe.method.name} has no momentum encoder. "
            "Set it to 'online'"
        )


def _compile(method: Method) -> None:
    for encoder in (method.backbone, method.momentum_backbone):
        if encoder is not None:
            encoder.compile()
