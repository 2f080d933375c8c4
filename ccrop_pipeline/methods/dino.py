"""DINO (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2104.14294)."""

import warnings
from collections.abc import Sequence

import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, StepOutput
from ccrop_pipeline.methods.shared import at_least_float32, cosine_momentum, momentum_copy
from ccrop_pipeline.recipes.method_settings import DINOSettings


class DINO(Method):
    """A student agrees, on all views, with what its teacher makes of the two global ones."""

    settings_class = DINOSettings
    momentum_backbone: Backbone

    def __init__(self, backbone: Backbone, settings: DINOSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.projector = _head(backbone.feature_dim, settings)
        self.momentum_backbone = momentum_copy(backbone)
        # Weight norm leaves a tensor in the head that cannot be copied: build it twice.
        self.momentum_projector = _head(backbone.feature_dim, settings)
        self.momentum_projector.load_state_dict(self.projector.state_dict())
        deactivate_requires_grad(self.momentum_projector)
        self.teacher_temperature = settings.teacher_temperature_in(0)
        self.criterion = DINOLoss(
            settings.projection_dim,
            student_temp=settings.student_temperature,
            center_momentum=settings.center_momentum,
        )

    def before_step(self, epoch: int, progress: float) -> None:
        """Move the teacher towards the student, and its temperature along its warm-up."""
        momentum = cosine_momentum(self.settings.encoder_momentum, progress)
        update_momentum(self.backbone, self.momentum_backbone, momentum)
        update_momentum(self.projector, self.momentum_projector, momentum)
        self.teacher_temperature = self.settings.teacher_temperature_in(epoch)

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """Return equation 3 of the paper, averaged over pairs of views; see `Method.forward`."""
        two = torch.cat([views[0], views[1]])
        with torch.no_grad():
            teacher = self.momentum_projector(self.momentum_backbone(two))
        # One pass for each size, so that batch statistics cover all views of that size.
        student = [self.projector(self.backbone(two))]
        if local := list(views[2:]):
            student.append(self.projector(self.backbone(torch.cat(local))))
        teacher_out = list(at_least_float32(teacher).chunk(2))
        student_out = list(at_least_float32(torch.cat(student)).chunk(len(views)))
        with torch.autocast(two.device.type, enabled=False):
            loss = self.criterion(teacher_out, student_out, teacher_temp=self.teacher_temperature)
        # About their centre, as the loss compares them.
        return StepOutput(loss, student_out[0].detach() - self.criterion.get_buffer("center")[0])

    def after_backward(self, epoch: int) -> None:
        """Drop the gradient of the last layer in the first epochs."""
        self.projector.cancel_last_layer_gradients(epoch)


def _head(width: int, settings: DINOSettings) -> DINOProjectionHead:
    with warnings.catch_warnings():  # lightly builds on the older of torch's two weight norms
        warnings.simplefilter("ignore", FutureWarning)
        return DINOProjectionHead(
            width,
            settings.hidden_dim,
            settings.bottleneck_dim,
            settings.projection_dim,
            freeze_last_layer=settings.frozen_last_layer_epochs,
        )
