"""What the driver asks of a method."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import Backbone


@dataclass(frozen=True)
class MethodSettings:
    """A method's name, and the numbers of its loss and momentum encoder.

    Args:
        name: One of `METHODS`.
        temperature: Temperature of the contrastive loss, above 0.
        projection_dim: Length of the embedding that the loss compares.
        queue_size: Negatives kept from earlier batches (methods with a queue).
        encoder_momentum: Share of the momentum encoder that each step keeps, in [0, 1).

    Raises:
        CcropError: When a number is out of its range.
    """

    name: str = "mocov2"
    temperature: float = 0.2
    projection_dim: int = 128
    queue_size: int = 65536
    encoder_momentum: float = 0.999

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise CcropError(f"method.temperature is {self.temperature}; it must be above 0")
        if not 0 <= self.encoder_momentum < 1:
            raise CcropError(
                f"method.encoder_momentum is {self.encoder_momentum}; it must lie in [0, 1)"
            )
        for name in ("projection_dim", "queue_size"):
            if getattr(self, name) < 1:
                raise CcropError(f"method.{name} is {getattr(self, name)}; it must be 1 or more")


class Method(nn.Module):
    """A trainable module that holds all a checkpoint must carry.

    ``backbone`` is the online encoder: the one that is probed, exported and computes boxes.
    """

    backbone: Backbone
    criterion: nn.Module

    def before_step(self) -> None:
        """Moves momentum encoders, where there are any; called before each loss."""

    def loss(self, views: Tensor) -> Tensor:
        """Loss of one batch.

        Args:
            views: Normalised float images, shape (2, B, 3, S, S).

        Returns:
            A scalar to be minimised.
        """
        raise NotImplementedError

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        """Applies the criterion to two (B, dim) embeddings in float32.

        Under autocast the similarities would be rounded to bfloat16 and then divided by a small
        temperature, which is where the loss is most sensitive.
        """
        with torch.autocast(first.device.type, enabled=False):
            loss: Tensor = self.criterion(first.float(), second.float())
        return loss
