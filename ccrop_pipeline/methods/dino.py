"""DINO (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2104.14294)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, MethodSettings, StepOutput, count, positive, share
from ccrop_pipeline.methods.shared import at_least_float32, cosine_momentum, follower


@dataclass(frozen=True)
class DINOSettings(MethodSettings):
    """Numbers of DINO.

    Args:
        name: "dino".
        student_temperature: Temperature of the student's softmax.
        teacher_temperature: Temperature of the teacher's softmax after its warm-up.
        warmup_teacher_temperature: The same in the first epoch.
        temperature_warmup_epochs: Epochs over which the teacher's temperature grows linearly.
        center_momentum: Share of the centre that each step keeps, in [0, 1).
        encoder_momentum: Share of the teacher that the first step keeps, in [0, 1); grows to 1
            by half a cosine.
        frozen_last_layer_epochs: Epochs in which the head's last layer does not learn.
        hidden_dim: Width of the layers inside the head.
        bottleneck_dim: Length of the normalised vector before its last layer.
        projection_dim: Number of outputs, K in the paper.
    """

    name: str = "dino"
    student_temperature: float = positive(0.1)
    teacher_temperature: float = positive(0.07)
    warmup_teacher_temperature: float = positive(0.04)
    temperature_warmup_epochs: int = count(30, least=0)
    center_momentum: float = share(0.9)
    encoder_momentum: float = share(0.996)
    frozen_last_layer_epochs: int = count(1, least=0)
    hidden_dim: int = count(2048)
    bottleneck_dim: int = count(256)
    projection_dim: int = count(65536)

    def teacher_temperature_in(self, epoch: int) -> float:
        """The teacher's temperature after `epoch` epochs."""
        start, end = self.warmup_teacher_temperature, self.teacher_temperature
        if epoch >= self.temperature_warmup_epochs:
            return end
        return start + (end - start) * epoch / max(1, self.temperature_warmup_epochs - 1)


class DINO(Method):
    """A student agrees, on all views, with what its teacher makes of the two global ones."""

    settings_class = DINOSettings
    momentum_backbone: Backbone

    def __init__(self, backbone: Backbone, settings: DINOSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.projector = _head(backbone.feature_dim, settings)
        self.momentum_backbone = follower(backbone)
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
        """Moves the teacher towards the student, and its temperature along its warm-up."""
        momentum = cosine_momentum(self.settings.encoder_momentum, progress)
        update_momentum(self.backbone, self.momentum_backbone, momentum)
        update_momentum(self.projector, self.momentum_projector, momentum)
        self.teacher_temperature = self.settings.teacher_temperature_in(epoch)

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """Equation 3 of the paper, averaged over pairs of views; see `Method.forward`."""
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
        return StepOutput(loss, student_out[0].detach())

    def after_backward(self, epoch: int) -> None:
        """Takes the gradient of the last layer away in the first epochs."""
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
