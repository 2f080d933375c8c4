"""BYOL (Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, arXiv:2006.07733)."""

from collections.abc import Sequence

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum
from torch import Tensor

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, StepOutput
from ccrop_pipeline.methods.shared import cosine_momentum, momentum_copy
from ccrop_pipeline.recipes.method_settings import BYOLSettings


class BYOL(Method):
    """Predicts what a slow copy of itself makes of the other view; no negatives."""

    settings_class = BYOLSettings
    momentum_backbone: Backbone

    def __init__(self, backbone: Backbone, settings: BYOLSettings) -> None:
        super().__init__(backbone, settings)
        hidden, dim = settings.hidden_dim, settings.projection_dim
        self.projector = BYOLProjectionHead(backbone.feature_dim, hidden, dim)
        self.predictor = BYOLPredictionHead(dim, hidden, dim)
        self.momentum_backbone = momentum_copy(backbone)
        self.momentum_projector = momentum_copy(self.projector)
        self.encoder_momentum = settings.encoder_momentum
        self.criterion = NegativeCosineSimilarity()

    def before_step(self, epoch: int, progress: float) -> None:  # noqa: ARG002
        """Move the target network towards the online one."""
        momentum = cosine_momentum(self.encoder_momentum, progress)
        update_momentum(self.backbone, self.momentum_backbone, momentum)
        update_momentum(self.projector, self.momentum_projector, momentum)

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """Return equation 2 of the paper, 2 - 2 cos, for both directions; see `Method.forward`."""
        projections = [self.projector(self.backbone(view)) for view in views[:2]]
        first, second = (self.predictor(projection) for projection in projections)
        with torch.no_grad():
            targets = [self.momentum_projector(self.momentum_backbone(view)) for view in views[:2]]
        loss = 4 + 2 * (self.compare(first, targets[1]) + self.compare(second, targets[0]))
        return StepOutput(loss, projections[0].detach())
