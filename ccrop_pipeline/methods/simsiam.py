"""SimSiam (Chen and He, "Exploring Simple Siamese Representation Learning", 2011.10566)."""

from collections.abc import Sequence

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor, nn

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, StepOutput
from ccrop_pipeline.recipes.method_settings import SimSiamSettings


class SimSiam(Method):
    """Predicts its own embedding of the other view, through which no gradient flows."""

    settings_class = SimSiamSettings

    def __init__(self, backbone: Backbone, settings: SimSiamSettings) -> None:
        super().__init__(backbone, settings)
        dim = settings.projection_dim
        self.projector = SimSiamProjectionHead(backbone.feature_dim, settings.hidden_dim, dim)
        self.predictor = SimSiamPredictionHead(dim, settings.prediction_hidden_dim, dim)
        self.fixed_predictor_rate = settings.fixed_predictor_rate
        self.criterion = NegativeCosineSimilarity()

    def fixed_rate_parameters(self) -> list[nn.Parameter]:
        """Return those of the predictor, if the settings say so."""
        return list(self.predictor.parameters()) if self.fixed_predictor_rate else []

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """Return equation 4 of the paper, in [-1, 1]; see `Method.forward`."""
        first, second = (self.projector(self.backbone(view)) for view in views[:2])
        towards_second = self.compare(self.predictor(first), second.detach())
        towards_first = self.compare(self.predictor(second), first.detach())
        return StepOutput((towards_second + towards_first) / 2, first.detach())
