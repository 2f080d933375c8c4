"""MoCo v1 (He et al., CVPR 2020, arXiv:1911.05722) and v2 (Chen et al., arXiv:2003.04297)."""

from collections.abc import Sequence

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import update_momentum
from torch import Tensor, nn

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.batch_norm import Shuffle, shuffled
from ccrop_pipeline.methods.method import Method, StepOutput
from ccrop_pipeline.methods.shared import Queue, momentum_copy
from ccrop_pipeline.recipes.method_settings import MoCoV1Settings, MoCoV2Settings


class MoCo(Method):
    """A query from the online encoder, its key from a momentum copy, negatives from a queue.

    Args:
        backbone: Online (query) encoder.
        settings: Numbers of the method.
        projector: Its head.
    """

    momentum_backbone: Backbone

    def __init__(self, backbone: Backbone, settings: MoCoV2Settings, projector: nn.Module) -> None:
        super().__init__(backbone, settings)
        self.projector = projector
        self.momentum_backbone = momentum_copy(backbone)
        self.momentum_projector = momentum_copy(projector)
        self.shuffle = Shuffle(settings.bn_groups)
        shuffled(self.momentum_backbone, self.shuffle)
        self.encoder_momentum = settings.encoder_momentum
        self.criterion = NTXentLoss(settings.temperature)
        self.criterion.memory_bank = Queue(settings.queue_size, settings.projection_dim)

    def before_step(self, epoch: int, progress: float) -> None:  # noqa: ARG002
        """Move the key encoder a little towards the online one (equation 2 of MoCo)."""
        update_momentum(self.backbone, self.momentum_backbone, self.encoder_momentum)
        update_momentum(self.projector, self.momentum_projector, self.encoder_momentum)

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """Return InfoNCE (equation 1 of MoCo), query from the first view; see `Method.forward`."""
        queries = self.projector(self.backbone(views[0]))
        return StepOutput(self.compare(queries, self._keys(views[1])), queries.detach())

    @torch.no_grad()
    def _keys(self, view: Tensor) -> Tensor:
        order = self.shuffle.draw(len(view), view.device)
        keys: Tensor = self.momentum_projector(self.momentum_backbone(view[order]))
        return keys[order.argsort()]


class MoCoV1(MoCo):
    """MoCo with one linear layer behind the encoder."""

    settings_class = MoCoV1Settings

    def __init__(self, backbone: Backbone, settings: MoCoV1Settings) -> None:
        projector = nn.Linear(backbone.feature_dim, settings.projection_dim)
        super().__init__(backbone, settings, projector)


class MoCoV2(MoCo):
    """MoCo with two layers, SimCLR's idea, behind the encoder."""

    settings_class = MoCoV2Settings

    def __init__(self, backbone: Backbone, settings: MoCoV2Settings) -> None:
        width = backbone.feature_dim
        projector = MoCoProjectionHead(width, width, settings.projection_dim)
        super().__init__(backbone, settings, projector)
