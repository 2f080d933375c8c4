"""The networks that can be asked for by name."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ccrop_pipeline.base.values import did_you_mean
from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.localize.encoder import IMAGENET_MEAN, IMAGENET_STD
from ccrop_pipeline.localize.heatmaps import Layout

_CIFAR = "-cifar"
_SMALL_WIDTHS = (16, 32, 64, 128)


class Backbone(nn.Module):
    """A chain of named stages from images to pooled features.

    The stages are direct children, so the state dict of a ResNet has torchvision's own keys
    (without `fc`) and an exported checkpoint loads into torchvision as it is. The network of a
    library is one stage, named `network`.

    Args:
        name: Name it was built by.
        stages: Modules to run one after the other, by name; the last returns `(B, feature_dim)`.
        feature_dim: Number of features an image.
        layer: Name of the layer inside `whole` that yields the last feature map; of a ResNet the
            last stage, after its last ReLU.
        layout: What that layer gives, as for an `Encoder`.
        prefix_tokens: Likewise.
        mean: Mean of pixels from 0 to 1 that `whole` expects images to be normalised by.
        std: Standard deviation, likewise.
        lines: Lines of Python that build `whole` anew as `model`, where it is a library's.
    """

    def __init__(
        self,
        name: str,
        stages: Mapping[str, nn.Module],
        feature_dim: int,
        layer: str,
        *,
        layout: Layout = "bchw",
        prefix_tokens: int = 0,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        lines: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.name = name
        self.feature_dim = feature_dim
        self.layer = layer
        self.layout: Layout = layout
        self.prefix_tokens = prefix_tokens
        self.mean, self.std = mean, std
        self.lines = tuple(lines)
        if (mean, std) != (IMAGENET_MEAN, IMAGENET_STD):
            self.add_module("colours", Renormalise(mean, std))
        for stage_name, stage in stages.items():
            self.add_module(stage_name, stage)

    @property
    def whole(self) -> nn.Module:
        """The network as its library has it; a ResNet of torchvision is the backbone itself."""
        return self._modules.get("network") or self

    @property
    def channels_last(self) -> bool:
        """Whether it is mostly faster with the channels innermost: not where they always are."""
        return self.layout != "tokens"

    def forward(self, images: Tensor) -> Tensor:
        """Return pooled features `(B, feature_dim)` of normalised images `(B, 3, H, W)`."""
        features = images
        for stage in self.children():
            features = stage(features)
        return features


class Renormalise(nn.Module):
    """Gives images that ImageNet's colours normalise the colours that a network expects.

    Args:
        mean: Mean of pixels from 0 to 1 that the network expects.
        std: Standard deviation, likewise.
    """

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        ours, theirs = (
            torch.tensor(colours).view(2, 3, 1, 1)
            for colours in ((IMAGENET_MEAN, IMAGENET_STD), (mean, std))
        )
        # (x * std + mean - other mean) / other std, as one product and one sum.
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", ours[1] / theirs[1], persistent=False)
        self.register_buffer("shift", (ours[0] - theirs[0]) / theirs[1], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 3, H, W) in the other colours."""
        return images * self.scale + self.shift


def build_backbone(name: str) -> Backbone:
    """Build a backbone with fresh random weights.

    Args:
        name: `small` (for demonstrations: 0.3 million parameters, images of 32 to 96 pixels),
            a ResNet of torchvision (`resnet18`, `wide_resnet50_2`, ...), or one of these with
            `-cifar` behind it: first convolution 3x3 with stride 1 and no max-pooling, as in
            appendix B.9 of SimCLR (arXiv:2002.05709). `models.open_backbone` has others besides.

    Raises:
        SettingError: If there is no backbone of that name.
    """
    _expect_known(name)
    return _small() if name == "small" else _resnet(name)


def _expect_known(name: str) -> None:
    if name == "small":
        return
    names = backbone_names()
    if name not in names:
        close = did_you_mean(name, names, most=3)
        raise SettingError(f"there is no backbone {name!r}{close}. Known are: {', '.join(names)}.")


def backbone_names() -> list[str]:
    """Return every name that `build_backbone` knows."""
    from torchvision import models  # seconds to import, and nothing else here needs it

    resnets: list[str] = models.list_models(
        module=models, include=["resnet*", "resnext*", "wide_resnet*"]
    )
    return ["small", *resnets, *(resnet + _CIFAR for resnet in resnets)]


def _resnet(name: str) -> Backbone:
    from torchvision import models

    stages = dict(models.get_model(name.removesuffix(_CIFAR), weights=None).named_children())
    feature_dim: int = stages.pop("fc").in_features
    if name.endswith(_CIFAR):
        stages["conv1"] = _conv3x3(3, stages["conv1"].out_channels)
        del stages["maxpool"]
    stages["flatten"] = nn.Flatten()
    return Backbone(name, stages, feature_dim, layer="layer4")


def _small() -> Backbone:
    stages: dict[str, nn.Module] = {}
    width_in = 3
    for number, width in enumerate(_SMALL_WIDTHS, start=1):
        # Max-pooling and not strides: a strided 3x3 convolution looks at the upper left of its
        # cell, and three of them put the heat visibly beside the object.
        stages[f"layer{number}"] = nn.Sequential(
            *([nn.MaxPool2d(2)] if number > 1 else []),
            *_conv_bn_relu(width_in, width),
            *_conv_bn_relu(width, width),
        )
        width_in = width
    stages |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return Backbone("small", stages, feature_dim=width_in, layer="layer4")


def _conv_bn_relu(width_in: int, width: int) -> tuple[nn.Module, ...]:
    return _conv3x3(width_in, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def _conv3x3(width_in: int, width: int) -> nn.Conv2d:
    conv = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
    # What torchvision's ResNets start from, so that the exchanged first layer is no exception.
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
