"""Barlow Twins (Zbontar et al., ICML 2021, arXiv:2103.03230)."""

from collections.abc import Sequence

from lightly.loss import BarlowTwinsLoss
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import Tensor

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, StepOutput
from ccrop_pipeline.methods.shared import OfWholeBatch
from ccrop_pipeline.recipes.method_settings import BarlowTwinsSettings


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
        """Return equation 1 of the paper; see `Method.forward`."""
        first, second = (self.projector(self.backbone(view)) for view in views[:2])
        return StepOutput(self.compare(first, second), first.detach())
