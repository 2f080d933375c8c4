"""MoCo v3 (Chen et al., "Training Self-Supervised Vision Transformers", 2104.02057).

With the heads that its authors' program gives ResNets and transformers (`MoCo_ResNet` and
`MoCo_ViT` in moco/builder.py of facebookresearch/moco-v3); the paper describes the latter.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from lightly.models.modules.heads import ProjectionHead
from lightly.models.utils import update_momentum
from torch import Tensor, nn

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, StepOutput
from ccrop_pipeline.methods.shared import cosine_momentum, gathered, momentum_copy, rank
from ccrop_pipeline.recipes.method_settings import MoCoV3Settings


class InBatchContrast(nn.Module):
    """Finds each query's key among the keys of the whole batch (algorithm 1 of the paper).

    Args:
        temperature: Divides the similarities, and multiplies the loss to keep its scale.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return 2 tau times the cross entropy of (B, dim) queries over keys without gradient."""
        keys = gathered(F.normalize(keys, dim=1))
        logits = F.normalize(queries, dim=1) @ keys.T / self.temperature
        own = torch.arange(len(queries), device=queries.device) + rank() * len(queries)
        return 2 * self.temperature * F.cross_entropy(logits, own)


class MoCoV3(Method):
    """A predictor on the online side, keys from a momentum copy, no queue, both directions."""

    settings_class = MoCoV3Settings
    momentum_backbone: Backbone

    def __init__(self, backbone: Backbone, settings: MoCoV3Settings) -> None:
        super().__init__(backbone, settings)
        width, hidden, dim = backbone.feature_dim, settings.hidden_dim, settings.projection_dim
        of_vit = settings.heads == "vit"
        self.projector = _head([width, *[hidden] * (2 if of_vit else 1), dim], norm_last=True)
        self.predictor = _head([dim, hidden, dim], norm_last=of_vit)
        self.momentum_backbone = momentum_copy(backbone)
        self.momentum_projector = momentum_copy(self.projector)
        self.encoder_momentum = settings.encoder_momentum
        self.criterion = InBatchContrast(settings.temperature)

    def before_step(self, epoch: int, progress: float) -> None:  # noqa: ARG002
        """Move the momentum encoder towards the online one."""
        momentum = cosine_momentum(self.encoder_momentum, progress)
        update_momentum(self.backbone, self.momentum_backbone, momentum)
        update_momentum(self.projector, self.momentum_projector, momentum)

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """Return the sum of both directions; see `Method.forward`."""
        projections = [self.projector(self.backbone(view)) for view in views[:2]]
        first, second = (self.predictor(projection) for projection in projections)
        with torch.no_grad():
            keys = [self.momentum_projector(self.momentum_backbone(view)) for view in views[:2]]
        loss = self.compare(first, keys[1]) + self.compare(second, keys[0])
        return StepOutput(loss, projections[0].detach())


def _head(widths: Sequence[int], *, norm_last: bool) -> ProjectionHead:
    """Make layers without biases, batch norm behind each; the last has no parameters, if any."""
    *pairs, (width, dim) = pairwise(widths)
    last = nn.BatchNorm1d(dim, affine=False) if norm_last else None
    return ProjectionHead(
        [
            *((into, out, nn.BatchNorm1d(out), nn.ReLU(), False) for into, out in pairs),
            (width, dim, last, None, False),
        ]
    )
