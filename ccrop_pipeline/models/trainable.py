"""From the backbone that a recipe names to a module that can be trained and looked into."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ccrop_pipeline.errors import ModelError, shown
from ccrop_pipeline.localize import Backbone, Encoder, backbone_names, build_backbone
from ccrop_pipeline.localize.encoder import evaluation
from ccrop_pipeline.localize.stochastic_depth import drop_paths
from ccrop_pipeline.models.layers import layers_of
from ccrop_pipeline.models.named import timm_network, torchvision_network
from ccrop_pipeline.models.network import Network
from ccrop_pipeline.recipes.recipe import no_stochastic_depth


def open_backbone(name: str, sizes: Sequence[int], *, drop_path_rate: float = 0.0) -> Backbone:
    """Build a backbone with fresh random weights, from torch's global generator.

    Args:
        name: One that `build_backbone` knows; `timm:NAME` or `torchvision:NAME`, whose images keep
            the colours that its library's own weights expect.
        sizes: Sides in pixels of the images that it is to take. It is built for the first, and
            its feature map is that of images of the second, if there is one.
        drop_path_rate: Largest rate of stochastic depth; 0: none, whatever the library's default.

    Raises:
        CcropError: If there is no such network, its library is missing, it does not take images
            of these sizes, or it yields no features that can be trained or no feature map, or
            it has no stochastic depth to set.
    """
    library, _, plain = name.partition(":")
    ours = library == name or (library == "torchvision" and _is_ours(plain))
    if ours:
        backbone = build_backbone(plain or name)
        _set_drop_paths(backbone, name, drop_path_rate)
        return backbone
    options: dict[str, Any] = {"input_size": sizes[0], "partial": False, "say": lambda _line: None}
    if library == "timm":
        network = timm_network(
            plain, "random", any_size=True, drop_path_rate=drop_path_rate, **options
        )
        lines = [
            _call("timm.create_model", plain, pretrained=False, num_classes=0, **network.options)
        ]
    else:
        network = torchvision_network(plain, "random", **options)
        lines = [_call("torchvision.models.get_model", plain, weights=None, **network.options)]
        lines += [
            f'model.set_submodule("{part}", torch.nn.Identity())'
            for part in _without_classifier(network.module)
        ]
    _set_drop_paths(network.module, name, drop_path_rate)
    return _wrapped(network, sizes, lines)


def backbone_encoder(
    backbone: Backbone,
    input_size: int,
    *,
    epoch: int | None = None,
    device: torch.device | str = "cpu",
) -> Encoder:
    """Return the encoder around the network of a backbone, whose weights both share.

    Args:
        backbone: Any backbone.
        input_size: Side of the images in pixels.
        epoch: Epochs it was trained for, if known.
        device: Where it runs.
    """
    return Encoder(
        backbone.whole,
        backbone.layer,
        input_size,
        mean=backbone.mean,
        std=backbone.std,
        name=backbone.name,
        epoch=epoch,
        device=device,
        channels_last=backbone.channels_last,
        layout=backbone.layout,
        prefix_tokens=backbone.prefix_tokens,
        pools=backbone.whole is not backbone,
    )


def _call(function: str, name: str, **options: Any) -> str:
    given = "".join(f", {option}={value!r}" for option, value in options.items())
    return f'model = {function}("{name}"{given})'


def _set_drop_paths(network: nn.Module, name: str, rate: float) -> None:
    if not drop_paths(network, rate) and rate:
        raise no_stochastic_depth(name, rate)


def _is_ours(name: str) -> bool:
    return name != "small" and name in backbone_names()


def _without_classifier(module: nn.Module) -> list[str]:
    """Put nothing in the place of the last linear layer of a network, and of a dropout before.

    Returns:
        The names of both.
    """
    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)][-1]
    parent, _, last = linear.rpartition(".")
    taken = [linear]
    if last.isdigit() and last != "0":
        before = f"{parent}.{int(last) - 1}"
        taken += [before] if isinstance(module.get_submodule(before), nn.Dropout) else []
    for name in taken:
        module.set_submodule(name, nn.Identity())
    return taken


def _wrapped(network: Network, sizes: Sequence[int], lines: Sequence[str]) -> Backbone:
    module, name = network.module, network.name
    if getattr(module, "aux_logits", False):
        raise ModelError(f"{name} has outputs besides the last, and cannot be trained here.")
    widths = {_width(module, name, size) for size in dict.fromkeys(sizes)}
    size = sizes[:2][-1]
    encoder = Encoder(module, "", size, mean=network.mean, std=network.std, name=name)
    layer = next((info for info in layers_of(encoder) if info.is_default), None)
    if layer is None:
        raise ModelError(
            f"{name} has no layer that gives feature maps of more than one cell at {size} "
            "pixels, and so no boxes. Set image_size or eval_size to more."
        )
    return Backbone(
        name,
        {"network": module},
        widths.pop(),
        layer.name,
        layout=layer.layout,
        prefix_tokens=layer.prefix_tokens,
        mean=network.mean,
        std=network.std,
        lines=lines,
    )


def _width(module: nn.Module, name: str, size: int) -> int:
    """Return the number of features of an image of a size."""
    try:
        with evaluation(module), torch.inference_mode():
            output = module(torch.zeros(2, 3, size, size))
    except Exception as error:  # each network has its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{name} fails on views of {size} pixels: {lines[0].rstrip('.')}. Set image_size, "
            "eval_size and local_views.size to what it takes: multiples of the side of its "
            "patches, and all the same for a transformer of torchvision."
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(f"{name} gives {shown(found)} for 2 images, and no features (2, C).")
    return output.shape[1]
