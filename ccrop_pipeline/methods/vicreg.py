"""VICReg (Bardes et al., ICLR 2022, arXiv:2105.04906)."""

from collections.abc import Sequence

from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, StepOutput
from ccrop_pipeline.methods.shared import OfWholeBatch
from ccrop_pipeline.recipes.method_settings import VICRegSettings


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
        """Return invariance, variance and covariance, weighted; see `Method.forward`."""
        first, second = (self.projector(self.backbone(view)) for view in views[:2])
        return StepOutput(self.compare(first, second), first.detach())
