"""SimCLR (Chen et al., "A Simple Framework for Contrastive Learning", ICML 2020)."""

from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, MethodSettings


class SimCLR(Method):
    """Both views through one encoder; every other image of the batch is a negative.

    Args:
        backbone: Online encoder.
        settings: Temperature and projection length; the rest does not apply.
    """

    def __init__(self, backbone: Backbone, settings: MethodSettings) -> None:
        super().__init__()
        width = backbone.feature_dim
        self.backbone = backbone
        self.projector = SimCLRProjectionHead(width, width, settings.projection_dim)
        self.criterion = NTXentLoss(settings.temperature)

    def loss(self, views: Tensor) -> Tensor:
        """NT-Xent of a batch of view pairs, shape (2, B, 3, S, S); see `Method.loss`."""
        # One pass over both views: batch statistics then cover 2B images, as in the paper.
        projections = self.projector(self.backbone(views.flatten(0, 1)))
        first, second = projections.chunk(2)
        return self.compare(first, second)
