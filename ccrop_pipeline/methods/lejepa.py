"""LeJEPA (Balestriero and LeCun, "LeJEPA: Provable and Scalable ...", 2025, arXiv:2511.08544)."""

from collections.abc import Sequence

import torch
from lightly.loss.lejepa_loss import SIGReg, lejepa_invariance_loss
from lightly.models.modules.heads import LeJEPAProjectionHead
from torch import Tensor

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, StepOutput
from ccrop_pipeline.methods.shared import at_least_float32, gathered
from ccrop_pipeline.recipes.method_settings import LeJEPASettings


class LeJEPA(Method):
    """Pulls all views to the mean of the global ones, and their embeddings to a standard normal.

    Nothing else keeps it from collapsing: neither a momentum encoder nor a predictor.
    """

    settings_class = LeJEPASettings

    def __init__(self, backbone: Backbone, settings: LeJEPASettings) -> None:
        super().__init__(backbone, settings)
        self.projector = LeJEPAProjectionHead(
            backbone.feature_dim, settings.hidden_dim, settings.projection_dim
        )
        self.criterion = SIGReg(knots=settings.knots, num_vectors=settings.slices)
        self.weight = settings.gaussian_weight

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """Return the loss of algorithm 2 of the paper; see `Method.forward`."""
        # One pass for each size, so that batch statistics cover all views of that size.
        embeddings = [self.projector(self.backbone(torch.cat([views[0], views[1]])))]
        if local := list(views[2:]):
            embeddings.append(self.projector(self.backbone(torch.cat(local))))
        rows = at_least_float32(torch.cat(embeddings))
        own = rows.view(len(views), -1, rows.shape[1])
        # The statistic is of the whole batch; its slices are the same in all processes.
        every = gathered(own.transpose(0, 1)).transpose(0, 1)
        with torch.autocast(own.device.type, enabled=False):
            gaussian = self.criterion(every)
            invariance = lejepa_invariance_loss(all_proj=every, global_proj=every[:2])
        loss = self.weight * gaussian + (1 - self.weight) * invariance
        return StepOutput(loss, own[0].detach())
