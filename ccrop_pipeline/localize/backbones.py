"""The networks that can be asked for by name."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import groupby
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

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
        self._frozen_norms: list[str] = []
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

    def depths(self) -> dict[str, int]:
        """Return the number of the block that each parameter is in, by its name.

        Blocks are what a network repeats, counted in the order in which they are built. What is
        before the first of them, the stem, is block 0; what is behind the last one is a block too,
        and layers without a matrix or kernel, such as norms, belong to the block before.
        """
        numbers: dict[str, int] = {}
        number = -1
        for _, run in groupby(self.named_parameters(), lambda named: _unit(named[0])):
            unit = list(run)
            if number < 0 or any(parameter.ndim > 1 for _, parameter in unit):
                number += 1
            numbers |= {name: number for name, _ in unit}
        return numbers

    def freeze(self, blocks: int) -> None:
        """Let the first blocks learn nothing: no gradient, and batch norm as in evaluation.

        Class token and position embeddings of a transformer, which belong to none of its layers,
        are frozen with the second: 1 is the frozen patch projection of MoCo v3, in which random
        embeddings would else never learn.

        Raises:
            SettingError: If there are not more blocks than that.
        """
        depths = self.depths()
        if blocks > max(depths.values()):
            raise SettingError(
                f"freeze is {blocks}, and {self.name} has {max(depths.values()) + 1} blocks, the "
                "stem counted as one: freeze fewer, so that something can learn."
            )
        tokens = self._tokens(depths)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(depths[name] >= blocks or (blocks == 1 and name in tokens))
        self._frozen_norms = [
            name
            for name, part in self.named_modules()
            if isinstance(part, _BatchNorm) and depths.get(f"{name}.weight", blocks) < blocks
        ]
        self.train(self.training)

    def _tokens(self, depths: Mapping[str, int]) -> set[str]:
        """Return the names of parameters that a part with blocks in it has besides them."""
        holders = {
            ".".join(path[:count])
            for path in (name.split(".") for name in depths if depths[name])
            for count in range(1, len(path) - 1)
        }
        return {name for name in depths if not depths[name] and name.rpartition(".")[0] in holders}

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002
        """Set the mode of all parts but batch norm that is frozen."""
        super().train(mode)
        for name in self._frozen_norms:
            self.get_submodule(name).eval()
        return self

    def checkpoint_blocks(self) -> None:
        """Keep only what goes into each block for the backward pass, and compute the rest again.

        Memory for time, by about a third more of it (Chen et al., arXiv:1604.06174). Call it last:
        copies of the backbone would share the blocks of this one.
        """
        units = {_unit(name) for name, _ in self.named_parameters()} - {""}
        for unit in units:
            block = self.get_submodule(unit)
            outer = any(other.startswith(f"{unit}.") for other in units)
            if not outer and next(block.children(), None) is not None:
                block.forward = _recomputed(block)

    def forward(self, images: Tensor) -> Tensor:
        """Return pooled features `(B, feature_dim)` of normalised images `(B, 3, H, W)`."""
        features = images
        for stage in self.children():
            features = stage(features)
        return features


_NUMBERED = re.compile(r"\d+|(layer|stage|encoder_layer_)\d+")


def _unit(name: str) -> str:
    """Return the path of the innermost numbered part from the front, "" where none is."""
    path = name.split(".")[:-1]
    numbered = [bool(_NUMBERED.fullmatch(part)) for part in path]
    if not any(numbered):
        return ""
    stop = numbered.index(True) + 1
    while stop < len(path) and (numbered[stop] or path[stop] == "blocks"):
        stop += 1
    return ".".join(path[:stop])


def _recomputed(block: nn.Module) -> Callable[..., Any]:
    """Return the forward pass of a block that is computed again in the backward pass.

    The statistics of batch norm move once all the same. That is more than `torch.compile` can
    follow: it leaves such blocks as they are.
    """
    plain = block.forward
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]

    @contextmanager
    def tracked_once() -> Iterator[None]:
        own = [norm._buffers for norm in norms]
        for norm in norms:
            norm._buffers = {name: value.clone() for name, value in norm.named_buffers()}
        try:
            yield
        finally:
            for norm, buffers in zip(norms, own, strict=True):
                norm._buffers = buffers

    def forward(*args: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return plain(*args)
        if not norms:
            return checkpoint(plain, *args, use_reentrant=False)
        contexts = lambda: (nullcontext(), tracked_once())  # noqa: E731
        return checkpoint(plain, *args, use_reentrant=False, context_fn=contexts)

    leave: Callable[..., Any] = torch.compiler.disable
    return leave(forward) if norms else forward


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
