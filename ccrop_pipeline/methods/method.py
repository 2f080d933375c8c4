"""What the driver asks of a method."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.batch_norm import synchronise
from ccrop_pipeline.methods.shared import at_least_float32
from ccrop_pipeline.recipes import MethodSettings


class StepOutput(NamedTuple):
    """What one batch gives.

    Attributes:
        loss: Scalar float32 to be minimised. With several processes, the mean of theirs is the
            loss of the whole batch.
        embeddings: Embeddings of the first view, (B, dim), without gradient: what collapses when
            a method collapses.
    """

    loss: Tensor
    embeddings: Tensor


class Method(nn.Module):
    """A trainable module that holds all a checkpoint must carry.

    Args:
        backbone: Online encoder: the one that is trained, probed and exported.
        settings: Of the type `settings_class`.

    Attributes:
        backbone: The online encoder.
        momentum_backbone: Its slow copy; None for methods that have none.
        criterion: What `compare` applies.

    Raises:
        SettingError: If the settings are another method's.
    """

    settings_class: ClassVar[type[MethodSettings]]
    backbone: Backbone
    momentum_backbone: Backbone | None
    criterion: nn.Module

    def __init__(self, backbone: Backbone, settings: MethodSettings) -> None:
        super().__init__()
        if type(settings) is not self.settings_class:
            raise SettingError(f"{type(self).__name__} takes no {type(settings).__name__}.")
        self.backbone = backbone
        self.momentum_backbone = None

    def before_step(self, epoch: int, progress: float) -> None:
        """Move what follows a schedule; called once before each step, before `forward`.

        Args:
            epoch: Epochs trained so far.
            progress: Steps taken so far / steps of the run, in [0, 1).
        """

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """Return loss and embeddings of one batch.

        Args:
            views: Normalised float images, (B, 3, S, S) each; row i of every view is of image i.
                The first two are global views; further ones are local, may be smaller, and are
                passed over by methods that have no use for them.
        """
        raise NotImplementedError

    def after_backward(self, epoch: int) -> None:
        """Change gradients, where a method does; called before the optimizer's step.

        Args:
            epoch: Epochs trained so far.
        """

    def fixed_rate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters whose learning rate stays at its peak throughout."""
        return []

    def synchronise_batch_norm(self) -> None:
        """Let batch norm cover the batch of all processes.

        Call it in each of several processes, once the method is on its device and before it is
        wrapped for training. Names of parameters and buffers stay.
        """
        synchronise(self)

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        """Apply the criterion to two (B, dim) embeddings in float32 or better.

        Under autocast the similarities would be rounded to bfloat16 and then divided by a small
        temperature, which is where the loss is most sensitive.
        """
        with torch.autocast(first.device.type, enabled=False):
            loss: Tensor = self.criterion(at_least_float32(first), at_least_float32(second))
        return loss
