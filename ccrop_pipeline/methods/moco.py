"""What MoCo v1 and v2 share: a key encoder, a queue, and shuffled batch norm."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import update_momentum
from torch import Tensor, nn

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.batch_norm import Shuffle, shuffled
from ccrop_pipeline.methods.method import Method, MethodSettings, StepOutput, count, positive, share
from ccrop_pipeline.methods.shared import Queue, follower


@dataclass(frozen=True)
class MoCoSettings(MethodSettings):
    """Numbers of MoCo v1 and v2.

    Args:
        name: "mocov1" or "mocov2".
        temperature: Temperature of the loss.
        projection_dim: Length of an embedding.
        queue_size: Negatives kept from earlier batches.
        encoder_momentum: Share of the key encoder that each step keeps, in [0, 1).
        bn_groups: Groups that batch norm of the key encoder cuts the whole batch into; the papers
            have 8, one a GPU.
    """

    temperature: float = positive(0.2)
    projection_dim: int = count(128)
    queue_size: int = count(65536)
    encoder_momentum: float = share(0.999)
    bn_groups: int = count(8)


class MoCo(Method):
    """A query from the online encoder, its key from a momentum copy, negatives from a queue.

    Args:
        backbone: Online (query) encoder.
        settings: Numbers of the method.
        projector: Its head.
    """

    momentum_backbone: Backbone

    def __init__(self, backbone: Backbone, settings: MoCoSettings, projector: nn.Module) -> None:
        super().__init__(backbone, settings)
        self.projector = projector
        self.momentum_backbone = follower(backbone)
        self.momentum_projector = follower(projector)
        self.shuffle = Shuffle(settings.bn_groups)
        shuffled(self.momentum_backbone, self.shuffle)
        self.encoder_momentum = settings.encoder_momentum
        self.criterion = NTXentLoss(settings.temperature)
        self.criterion.memory_bank = Queue(settings.queue_size, settings.projection_dim)

    def before_step(self, epoch: int, progress: float) -> None:  # noqa: ARG002
        """Moves the key encoder a little towards the online one (equation 2 of MoCo)."""
        update_momentum(self.backbone, self.momentum_backbone, self.encoder_momentum)
        update_momentum(self.projector, self.momentum_projector, self.encoder_momentum)

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """InfoNCE (equation 1 of MoCo), query from the first view; see `Method.forward`."""
        queries = self.projector(self.backbone(views[0]))
        return StepOutput(self.compare(queries, self._keys(views[1])), queries.detach())

    @torch.no_grad()
    def _keys(self, view: Tensor) -> Tensor:
        order = self.shuffle.draw(len(view), view.device)
        keys: Tensor = self.momentum_projector(self.momentum_backbone(view[order]))
        return keys[order.argsort()]


@dataclass(frozen=True)
class MoCoV1Settings(MoCoSettings):
    """Numbers of MoCo v1; see `MoCoSettings`. Temperature 0.07 as in section 3.3."""

    name: str = "mocov1"
    temperature: float = positive(0.07)


class MoCoV1(MoCo):
    """MoCo with one linear layer behind the encoder."""

    settings_class = MoCoV1Settings

    def __init__(self, backbone: Backbone, settings: MoCoV1Settings) -> None:
        projector = nn.Linear(backbone.feature_dim, settings.projection_dim)
        super().__init__(backbone, settings, projector)


@dataclass(frozen=True)
class MoCoV2Settings(MoCoSettings):
    """Numbers of MoCo v2; see `MoCoSettings`. Temperature 0.2 as in table 2."""

    name: str = "mocov2"


class MoCoV2(MoCo):
    """MoCo with SimCLR's idea of two layers behind the encoder."""

    settings_class = MoCoV2Settings

    def __init__(self, backbone: Backbone, settings: MoCoV2Settings) -> None:
        width = backbone.feature_dim
        projector = MoCoProjectionHead(width, width, settings.projection_dim)
        super().__init__(backbone, settings, projector)
