"""VICReg (Bardes et al., ICLR 2022, arXiv:2105.04906)."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, MethodSettings, StepOutput, count, weight
from ccrop_pipeline.methods.shared import OfWholeBatch


@dataclass(frozen=True)
class VICRegSettings(MethodSettings):
    """Numbers of VICReg.

    The weights belong to the loss as its authors' code has it and as lightly follows: there,
    unlike in equations 5 and 6, invariance is also averaged over dimensions, and variance over
    the two views.

    Args:
        name: "vicreg".
        invariance_weight: lambda in equation 6.
        variance_weight: mu in equation 6.
        covariance_weight: nu in equation 6.
        hidden_dim: Width of the layers inside the projector (the expander).
        projection_dim: Length of an embedding.
    """

    name: str = "vicreg"
    invariance_weight: float = weight(25.0)
    variance_weight: float = weight(25.0)
    covariance_weight: float = weight(1.0)
    hidden_dim: int = count(8192)
    projection_dim: int = count(8192)


class VICReg(Method):
    """Pulls views together, keeps every dimension's variance up and its covariances down."""

    settings_class = VICRegSettings

    def __init__(self, backbone: Backbone, settings: VICRegSettings) -> None:
        super().__init__(backbone, settings)
        self.projector = VICRegProjectionHead(
            backbone.feature_dim, settings.hidden_dim, settings.projection_dim
        )
        loss = VICRegLoss(
            settings.invariance_weight, settings.variance_weight, settings.covariance_weight
        )
        self.criterion = OfWholeBatch(loss)

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """Invariance, variance and covariance, weighted; see `Method.forward`."""
        first, second = (self.projector(self.backbone(view)) for view in views[:2])
        return StepOutput(self.compare(first, second), first.detach())
