"""MoCo v2 (Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2020)."""

import copy

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, MethodSettings


class Queue(nn.Module):
    """The newest keys, first in first out, as negatives.

    Stands in for the memory bank of lightly's loss, which its ``state_dict`` leaves out: a run
    that lost its queue would not resume where it was.

    Args:
        size: Number of keys held.
        dim: Length of a key.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.keys: Tensor
        self.oldest: Tensor
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))

    def forward(self, keys: Tensor, update: bool = False) -> tuple[Tensor, Tensor]:
        """Returns `keys` (B, dim) and the held negatives (dim, size), then takes `keys` in."""
        negatives = self.keys.clone().T
        if update:
            size = len(self.keys)
            newest = keys.detach()[-size:]
            slots = (self.oldest + torch.arange(len(newest), device=keys.device)) % size
            self.keys[slots] = newest
            self.oldest.add_(len(newest)).remainder_(size)
        return keys, negatives


class MoCoV2(Method):
    """A query from the online encoder, its key from a momentum copy, negatives from a queue.

    Batch norm sees the whole batch of one process: the shuffling of the paper needs several.

    Args:
        backbone: Online (query) encoder.
        settings: Temperature, projection length, queue size and encoder momentum.
    """

    def __init__(self, backbone: Backbone, settings: MethodSettings) -> None:
        super().__init__()
        width, dim = backbone.feature_dim, settings.projection_dim
        self.backbone = backbone
        self.projector = MoCoProjectionHead(width, width, dim)
        self.momentum_backbone = copy.deepcopy(backbone)
        self.momentum_projector = copy.deepcopy(self.projector)
        deactivate_requires_grad(self.momentum_backbone)
        deactivate_requires_grad(self.momentum_projector)
        self.encoder_momentum = settings.encoder_momentum
        self.criterion = NTXentLoss(settings.temperature)
        self.criterion.memory_bank = Queue(settings.queue_size, dim)

    def before_step(self) -> None:
        """Moves the momentum encoder a little towards the online one."""
        update_momentum(self.backbone, self.momentum_backbone, self.encoder_momentum)
        update_momentum(self.projector, self.momentum_projector, self.encoder_momentum)

    def loss(self, views: Tensor) -> Tensor:
        """InfoNCE of a batch of view pairs, shape (2, B, 3, S, S); see `Method.loss`."""
        query_view, key_view = views
        queries = self.projector(self.backbone(query_view))
        with torch.no_grad():
            keys = self.momentum_projector(self.momentum_backbone(key_view))
        return self.compare(queries, keys)
