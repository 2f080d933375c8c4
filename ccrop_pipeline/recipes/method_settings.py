"""Settings of the methods; their defaults are the papers'."""

from dataclasses import dataclass
from typing import Literal

from ccrop_pipeline.base.values import check_ranges, did_you_mean, ranged
from ccrop_pipeline.errors import SettingError, shown


@dataclass(frozen=True)
class MethodSettings:
    """What the settings of every method have; each method adds its own numbers.

    Attributes:
        name: Name of the method.

    Raises:
        SettingError: If a number is out of its range.
    """

    name: str

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


@dataclass(frozen=True)
class SimCLRSettings(MethodSettings):
    """Numbers of SimCLR.

    Attributes:
        temperature: Temperature of the loss. The paper has 0.1 for ImageNet (section 5.1) and
            0.5 for CIFAR-10 (appendix B.9).
        projection_dim: Length of an embedding.
    """

    name: str = "simclr"
    temperature: float = ranged(0.1, "[0.0001, 1000]")
    projection_dim: int = ranged(128, "[1, 1048576]")


@dataclass(frozen=True)
class MoCoV2Settings(MethodSettings):
    """Numbers of MoCo v2.

    Attributes:
        temperature: Temperature of the loss; that of table 2.
        projection_dim: Length of an embedding.
        queue_size: Negatives kept from earlier batches.
        encoder_momentum: Share of the key encoder that each step keeps, in [0, 1).
        bn_groups: Groups that batch norm of the key encoder cuts the whole batch into; the papers
            have 8, one a GPU.
    """

    name: str = "mocov2"
    temperature: float = ranged(0.2, "[0.0001, 1000]")
    projection_dim: int = ranged(128, "[1, 1048576]")
    queue_size: int = ranged(65536, "[1, 16777216]")
    encoder_momentum: float = ranged(0.999, "[0, 1)")
    bn_groups: int = ranged(8, "[1, 1048576]")


@dataclass(frozen=True)
class MoCoV1Settings(MoCoV2Settings):
    """Numbers of MoCo v1; those of v2 but for the temperature, which is that of section 3.3."""

    name: str = "mocov1"
    temperature: float = ranged(0.07, "[0.0001, 1000]")


@dataclass(frozen=True)
class MoCoV3Settings(MethodSettings):
    """Numbers of MoCo v3.

    Attributes:
        temperature: Temperature of the loss. The authors train ResNets with 1, transformers
            with 0.2 (their repository's configurations).
        hidden_dim: Width of the layer inside projector and predictor.
        projection_dim: Length of an embedding.
        encoder_momentum: Share of the momentum encoder that the first step keeps, in [0, 1);
            grows to 1 by half a cosine.
        heads: Those that the authors give a ResNet, a projector and a predictor of two layers; or
            those of a transformer, with a third layer in the projector and batch norm behind the
            predictor.
    """

    name: str = "mocov3"
    temperature: float = ranged(1.0, "[0.0001, 1000]")
    hidden_dim: int = ranged(4096, "[1, 1048576]")
    projection_dim: int = ranged(256, "[1, 1048576]")
    encoder_momentum: float = ranged(0.99, "[0, 1)")
    heads: Literal["resnet", "vit"] = "resnet"


@dataclass(frozen=True)
class BYOLSettings(MethodSettings):
    """Numbers of BYOL.

    Attributes:
        hidden_dim: Width of the layer inside projector and predictor.
        projection_dim: Length of an embedding.
        encoder_momentum: Share of the target network that the first step keeps, in [0, 1); grows
            to 1 by half a cosine.
    """

    name: str = "byol"
    hidden_dim: int = ranged(4096, "[1, 1048576]")
    projection_dim: int = ranged(256, "[1, 1048576]")
    encoder_momentum: float = ranged(0.996, "[0, 1)")


@dataclass(frozen=True)
class SimSiamSettings(MethodSettings):
    """Numbers of SimSiam.

    Attributes:
        hidden_dim: Width of the layers inside the projector.
        projection_dim: Length of an embedding.
        prediction_hidden_dim: Width of the layer inside the predictor, the bottleneck.
        fixed_predictor_rate: Whether the predictor keeps the peak learning rate throughout
            (section 4.2 of the paper, row c of table 1).
    """

    name: str = "simsiam"
    hidden_dim: int = ranged(2048, "[1, 1048576]")
    projection_dim: int = ranged(2048, "[1, 1048576]")
    prediction_hidden_dim: int = ranged(512, "[1, 1048576]")
    fixed_predictor_rate: bool = True


@dataclass(frozen=True)
class DINOSettings(MethodSettings):
    """Numbers of DINO.

    Attributes:
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
    student_temperature: float = ranged(0.1, "[0.0001, 1000]")
    teacher_temperature: float = ranged(0.07, "[0.0001, 1000]")
    warmup_teacher_temperature: float = ranged(0.04, "[0.0001, 1000]")
    temperature_warmup_epochs: int = ranged(30, "[0, 100000]")
    center_momentum: float = ranged(0.9, "[0, 1)")
    encoder_momentum: float = ranged(0.996, "[0, 1)")
    frozen_last_layer_epochs: int = ranged(1, "[0, 100000]")
    hidden_dim: int = ranged(2048, "[1, 1048576]")
    bottleneck_dim: int = ranged(256, "[1, 1048576]")
    projection_dim: int = ranged(65536, "[1, 1048576]")

    def teacher_temperature_in(self, epoch: int) -> float:
        """Return the teacher's temperature after `epoch` epochs."""
        start, end = self.warmup_teacher_temperature, self.teacher_temperature
        if epoch >= self.temperature_warmup_epochs:
            return end
        return start + (end - start) * epoch / max(1, self.temperature_warmup_epochs - 1)


@dataclass(frozen=True)
class BarlowTwinsSettings(MethodSettings):
    """Numbers of Barlow Twins.

    Attributes:
        off_diagonal_weight: Weight of the redundancy reduction term, lambda in equation 1.
        hidden_dim: Width of the layers inside the projector.
        projection_dim: Length of an embedding.
    """

    name: str = "barlowtwins"
    off_diagonal_weight: float = ranged(5e-3, "[0, 1000000]")
    hidden_dim: int = ranged(8192, "[1, 1048576]")
    projection_dim: int = ranged(8192, "[1, 1048576]")


@dataclass(frozen=True)
class VICRegSettings(MethodSettings):
    """Numbers of VICReg.

    The weights belong to the loss as its authors' code has it and as lightly follows: there,
    unlike in equations 5 and 6, invariance is also averaged over dimensions, and variance over
    the two views.

    Attributes:
        invariance_weight: lambda in equation 6.
        variance_weight: mu in equation 6.
        covariance_weight: nu in equation 6.
        hidden_dim: Width of the layers inside the projector (the expander).
        projection_dim: Length of an embedding.
    """

    name: str = "vicreg"
    invariance_weight: float = ranged(25.0, "[0, 1000000]")
    variance_weight: float = ranged(25.0, "[0, 1000000]")
    covariance_weight: float = ranged(1.0, "[0, 1000000]")
    hidden_dim: int = ranged(8192, "[1, 1048576]")
    projection_dim: int = ranged(8192, "[1, 1048576]")


@dataclass(frozen=True)
class LeJEPASettings(MethodSettings):
    """Numbers of LeJEPA.

    Attributes:
        gaussian_weight: Weight of the distance from a standard normal, lambda in the paper; that
            of the distance between views is 1 less it.
        slices: Random directions that the embeddings are projected on in each step.
        knots: Points at which the characteristic functions are compared, from 0 to 3.
        hidden_dim: Width of the layers inside the projector.
        projection_dim: Length of an embedding.
    """

    name: str = "lejepa"
    gaussian_weight: float = ranged(0.05, "[0, 1]")
    slices: int = ranged(1024, "[1, 1048576]")
    knots: int = ranged(17, "[2, 100000]")
    hidden_dim: int = ranged(2048, "[1, 1048576]")
    projection_dim: int = ranged(64, "[1, 1048576]")


METHOD_SETTINGS: dict[str, type[MethodSettings]] = {
    "simclr": SimCLRSettings,
    "mocov1": MoCoV1Settings,
    "mocov2": MoCoV2Settings,
    "mocov3": MoCoV3Settings,
    "byol": BYOLSettings,
    "simsiam": SimSiamSettings,
    "dino": DINOSettings,
    "barlowtwins": BarlowTwinsSettings,
    "vicreg": VICRegSettings,
    "lejepa": LeJEPASettings,
}


def settings_type(name: str) -> type[MethodSettings]:
    """Return the class of a method's settings.

    Raises:
        SettingError: If there is no method of that name.
    """
    if name not in METHOD_SETTINGS:
        close = did_you_mean(name, METHOD_SETTINGS)
        known = ", ".join(METHOD_SETTINGS)
        raise SettingError(f"there is no method {shown(name)}{close}. Known are: {known}.")
    return METHOD_SETTINGS[name]
