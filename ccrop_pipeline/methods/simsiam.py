"""SimSiam (Chen and He, "Exploring Simple Siamese Representation Learning", 2011.10566)."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor, nn

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods.method import Method, MethodSettings, StepOutput, count


@dataclass(frozen=True)
class SimSiamSettings(MethodSettings):
    """Numbers of SimSiam.

    Args:
        name: "simsiam".
        hidden_dim: Width of the layers inside the projector.
        projection_dim: Length of an embedding.
        prediction_hidden_dim: Width of the layer inside the predictor, the bottleneck.
        fixed_predictor_rate: Whether the predictor keeps the peak learning rate throughout
            (section 4.2 of the paper, row c of table 1).
    """

    name: str = "simsiam"
    hidden_dim: int = count(2048)
    projection_dim: int = count(2048)
    prediction_hidden_dim: int = count(512)
    fixed_predictor_rate: bool = True


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
        """Those of the predictor, if the settings say so."""
        return list(self.predictor.parameters()) if self.fixed_predictor_rate else []

    def forward(self, views: Sequence[Tensor]) -> StepOutput:
        """Equation 4 of the paper, in [-1, 1]; see `Method.forward`."""
        first, second = (self.projector(self.backbone(view)) for view in views[:2])
        towards_second = self.compare(self.predictor(first), second.detach())
        towards_first = self.compare(self.predictor(second), first.detach())
        return StepOutput((towards_second + towards_first) / 2, first.detach())
