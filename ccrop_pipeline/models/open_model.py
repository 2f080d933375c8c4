"""Opening whatever `--model` names as an encoder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import BoxRule, Encoder
from ccrop_pipeline.localize.encoder import Precision
from ccrop_pipeline.models.architecture import infer_network
from ccrop_pipeline.models.checkpoints import find_weights, kind_of_file, read_weights
from ccrop_pipeline.models.fitting import fit, with_positions_for
from ccrop_pipeline.models.layers import layer_named, layers_of
from ccrop_pipeline.models.named import Weights, timm_network, torchvision_network
from ccrop_pipeline.models.network import Network
from ccrop_pipeline.models.programs import (
    exported_network,
    factory_network,
    torchscript_network,
)
from ccrop_pipeline.train import load_checkpoint

_OURS = "ccrop checkpoint"
_LIBRARIES = {"torchvision": torchvision_network, "timm": timm_network}


@dataclass(frozen=True)
class ModelOptions:
    """How to open a model.

    Attributes:
        weights: File of weights for a network that is named; ``random`` for trials; None for the
            library's own pretrained ones.
        layer: Layer to read; None for the default.
        input_size: Side of the images in pixels; None for what the model expects.
        unsafe: Whether files may run code of their own while they are read.
        partial: Whether weights that fit the network in part are accepted.
    """

    weights: Path | Literal["random"] | None = None
    layer: str | None = None
    input_size: int | None = None
    unsafe: bool = False
    partial: bool = False


def open_encoder(
    spec: str,
    options: ModelOptions | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    compile: bool = False,
    say: Callable[[str], None] | None = None,
) -> Encoder:
    """Opens a model as an encoder.

    Args:
        spec: A run or checkpoint of ``ccrop train``; a checkpoint of another training code; a
            TorchScript or ``torch.export`` file; ``torchvision:NAME``; ``timm:NAME``; or
            ``module.py:factory``.
        options: How to open it.
        device: Where it runs.
        precision: Of the forward pass.
        compile: Whether ``torch.compile`` compiles it.
        say: Called with lines for people: what was found in a file, what is missing from it.

    Raises:
        CcropError: It cannot be opened as asked.
    """
    options = options or ModelOptions()
    # Weights that nothing sets are the same in every process: ranks that start apart must agree.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        opened = _opened(spec, options, device, say or _silent)
    if isinstance(opened, Network):
        known = (opened.module, "", opened.input_size, opened.mean, opened.std)
        opened = Encoder(*known, name=opened.name, epoch=opened.epoch, device=device)
        return replace(_at_layer(opened, options.layer), precision=precision, compile=compile)
    size = options.input_size or opened.input_size
    encoder = replace(opened, device=device, precision=precision, compile=compile, input_size=size)
    return encoder if options.layer is None else _at_layer(encoder, options.layer)


def _silent(_line: str) -> None:
    pass


def _opened(
    spec: str,
    options: ModelOptions,
    device: torch.device | str,
    say: Callable[[str], None],
) -> Network | Encoder:
    library, _, name = spec.partition(":")
    if library in _LIBRARIES:
        weights = _weights_of(options)
        build = _LIBRARIES[library]
        return build(name, weights, options.input_size, options.partial, say)
    if options.weights is not None:
        raise CcropError(
            f"--weights goes with torchvision:NAME and timm:NAME; {spec} brings its own."
        )
    if ".py:" in spec:
        return factory_network(spec, options.input_size)
    path = Path(spec)
    if not path.exists():
        raise CcropError(
            f"There is no model {spec}: no such file or folder, and it starts with neither "
            "torchvision: nor timm:. `ccrop boxes compute --help` lists what --model takes."
        )
    if path.is_dir():
        return load_checkpoint(path).encoder(device)
    return _from_file(path, options, device, say)


def _from_file(
    path: Path,
    options: ModelOptions,
    device: torch.device | str,
    say: Callable[[str], None],
) -> Network | Encoder:
    kind = kind_of_file(path)
    if kind == "torchscript":
        if options.layer:
            raise CcropError(
                f"{path} is TorchScript, whose inner layers cannot be read: only what the program "
                "gives. Leave --layer out, or save it with torch.export."
            )
        return torchscript_network(path, options.input_size)
    if kind == "export":
        return exported_network(path, options.input_size, device)
    content = read_weights(path, options.unsafe)
    if isinstance(content, dict) and str(content.get("kind", "")).startswith(_OURS):
        return load_checkpoint(path).encoder(device)
    if isinstance(content, nn.Module):
        return Network(content, f"pickle:{path.name}", options.input_size or 224)
    checkpoint = find_weights(content, path)
    network = infer_network(checkpoint, options.input_size)
    if options.input_size is not None:
        checkpoint = with_positions_for(network.module, checkpoint)
    say(f"{path}: taken for {network.name}.")
    fit(network.module, checkpoint, options.partial, say)
    return network


def _weights_of(options: ModelOptions) -> Weights:
    if options.weights is None:
        return "pretrained"
    if isinstance(options.weights, str):
        return "random"
    return find_weights(read_weights(options.weights, options.unsafe), options.weights)


def _at_layer(encoder: Encoder, name: str | None) -> Encoder:
    """The encoder with a layer, and with what the layer's output looks like."""
    if name is None:
        layer = next((info for info in layers_of(encoder) if info.is_default), None)
        if layer is None:
            raise CcropError(
                f"{encoder.name} has no layer that gives feature maps of more than one cell at "
                f"{encoder.input_size} pixels. Give larger images with --input-size."
            )
    else:
        chosen = replace(encoder, layer=name)  # a wrong name is refused here
        layer = layer_named(encoder, name)
        if layer is None:
            raise CcropError(
                f"The layer {name!r} of {chosen.name} gives no feature map of more than one "
                "cell. `ccrop boxes layers` lists the layers that do."
            )
    return replace(
        encoder, layer=layer.name, layout=layer.layout, prefix_tokens=layer.prefix_tokens
    )


def rule_of_run(spec: str) -> BoxRule | None:
    """The rule of the recipe of a run or checkpoint of ours; None for any other model."""
    path = Path(spec)
    if not path.exists() or (path.is_file() and kind_of_file(path) != "pickle"):
        return None
    try:
        return BoxRule(load_checkpoint(path).recipe.boxes.threshold)
    except CcropError:  # another's checkpoint
        return None
