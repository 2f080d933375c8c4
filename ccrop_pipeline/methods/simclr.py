"""SimCLR (Chen et al., "A Simple Framework for Contrastive Learning", ICML 2020, 2002.05709)."""

from collections.abc import Sequence

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, StepOutput
from ccrop_pipeline.recipes.method_settings import SimCLRSettings


class SimCLR(Method):
    """Both views through one encoder; every other image of the whole batch is a negative."""

    settings_class = SimCLRSettings

    def __init__(self, backbone: Backbone, settings: SimCLRSettings) -> None:
        super().__init__(backbone, settings)
        width = backbone.feature_dim
        self.projector = SimCLRProjectionHead(width, width, settings.projection_dim)
        self.criterion = NTXentLoss(settings.temperature, gather_distributed=True)

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """Return NT-Xent (equation 1 of the paper), the mean over both views."""
        # One pass over both views: batch statistics then cover 2B images, as in the paper.
        projections = self.projector(self.backbone(torch.cat([views[0], views[1]])))
        first, second = projections.chunk(2)
        return StepOutput(self.compare(first, second), first.detach())
