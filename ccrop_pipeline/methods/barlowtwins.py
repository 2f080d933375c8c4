"""Barlow Twins (Zbontar et al., ICML 2021, arXiv:2103.03230)."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightly.loss import BarlowTwinsLoss
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import Tensor

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, MethodSettings, StepOutput, count, weight
from ccrop_pipeline.methods.shared import OfWholeBatch


@dataclass(frozen=True)
class BarlowTwinsSettings(MethodSettings):
    """Numbers of Barlow Twins.

    Args:
        name: "barlowtwins".
        off_diagonal_weight: Weight of the redundancy reduction term, lambda in equation 1.
        hidden_dim: Width of the layers inside the projector.
        projection_dim: Length of an embedding.
    """

    name: str = "barlowtwins"
    off_diagonal_weight: float = weight(5e-3)
    hidden_dim: int = count(8192)
    projection_dim: int = count(8192)


class BarlowTwins(Method):
    """Makes the cross-correlation of two views' embeddings the identity."""

    settings_class = BarlowTwinsSettings

    def __init__(self, backbone: Backbone, settings: BarlowTwinsSettings) -> None:
        super().__init__(backbone, settings)
        self.projector = BarlowTwinsProjectionHead(
            backbone.feature_dim, settings.hidden_dim, settings.projection_dim
        )
        self.criterion = OfWholeBatch(BarlowTwinsLoss(settings.off_diagonal_weight))

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """Equation 1 of the paper; see `Method.forward`."""
        first, second = (self.projector(self.backbone(view)) for view in views[:2])
        return StepOutput(self.compare(first, second), first.detach())
