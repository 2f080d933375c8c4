"""Whatever names a model, opened as an encoder."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.errors import ModelError, SettingError, reading, shown
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.localize.encoder import Precision
from ccrop_pipeline.models.architecture import infer_network
from ccrop_pipeline.models.checkpoints import Checkpoint, find_weights
from ccrop_pipeline.models.fitting import fit, with_positions_for
from ccrop_pipeline.models.layers import expect_whole_images, layer_named, layers_of
from ccrop_pipeline.models.named import Weights, timm_network, torchvision_network
from ccrop_pipeline.models.network import Network, three_channels
from ccrop_pipeline.models.own_checkpoints import is_own, own_encoder, read_checkpoint, within
from ccrop_pipeline.models.programs import (
    exported_network,
    factory_network,
    torchscript_network,
)
from ccrop_pipeline.models.sealed_files import NEWEST, expect_newest, kind_of_file
from ccrop_pipeline.models.weight_files import read_weights

_LIBRARIES = {"torchvision": torchvision_network, "timm": timm_network}

# More than any network was trained at; a batch of one such image is 200 MB.
_LARGEST = 4096

_NAME_IT = "Name it: torchvision:NAME or timm:NAME with `weights`, or module.py:factory."

Say = Callable[[str], None]


def open_encoder(
    spec: str | Path,
    *,
    weights: str | Path | None = None,
    layer: str | None = None,
    input_size: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    unsafe: bool = False,
    partial: bool = False,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    compile: bool = False,
    say: Say | None = None,
) -> Encoder:
    """Open a model as an encoder.

    Args:
        spec: A run or checkpoint of `ccrop train`; a checkpoint of another training code; a
            TorchScript or `torch.export` file; `torchvision:NAME`; `timm:NAME`; or
            `module.py:factory`.
        weights: File of weights for a network that is named; `random` for trials; None for the
            library's own pretrained ones.
        layer: Layer to read; None for the default.
        input_size: Side of the images in pixels, 8 to 4096; None for what the model expects.
        mean: Mean of pixels from 0 to 1 that images are normalised by, one number or one a channel;
            None for what the model is known or assumed to expect.
        std: Standard deviation, likewise.
        unsafe: Whether files may run code of their own while they are read.
        partial: Whether weights that fit the network only in part are accepted.
        device: Where it runs.
        precision: Precision of the forward pass.
        compile: Whether `torch.compile` compiles it.
        say: Called with lines for people: what was found in a file, what is missing from it.

    Raises:
        ModelError: If it cannot be opened as asked.
    """
    if input_size is not None and not 8 <= input_size <= _LARGEST:
        raise SettingError(
            f"`input_size` is {shown(input_size)}; it must be from 8 to {_LARGEST} pixels."
        )
    given = three_channels("mean", mean), three_channels("std", std)
    say = say or _silent
    # Weights that nothing sets are the same in every process: ranks that start apart must agree.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        library, _, name = str(spec).partition(":")
        if library in _LIBRARIES:
            known = _weights(weights, unsafe=unsafe)
            opened: Network | Encoder = _LIBRARIES[library](
                name, known, input_size=input_size, partial=partial, say=say
            )
        elif weights is not None:
            raise SettingError(
                f"`weights` goes with torchvision:NAME and timm:NAME; {spec} brings its own."
            )
        elif ".py:" in str(spec):
            opened = factory_network(str(spec), input_size)
        else:
            opened = _from_path(
                local_path(spec),
                layer,
                input_size,
                unsafe=unsafe,
                partial=partial,
                device=device,
                say=say,
            )
    encoder = _encoder_of(opened, layer, input_size, device)
    mean_of, std_of = given[0] or encoder.mean, given[1] or encoder.std
    encoder = replace(encoder, mean=mean_of, std=std_of, judge_weights=True)
    if isinstance(opened, Network) and None in given:
        say(
            f"{encoder.name}: mean {encoder.mean}, std {encoder.std}: {opened.colours}. "
            "`mean` and `std` set others."
        )
    if input_size is not None:  # a network's own size suits it
        expect_whole_images(encoder)
    return replace(encoder, precision=precision, compile=compile)


def _encoder_of(
    opened: Network | Encoder,
    layer: str | None,
    input_size: int | None,
    device: torch.device | str,
) -> Encoder:
    if isinstance(opened, Network):
        encoder = Encoder(
            opened.module,
            "",
            opened.input_size,
            mean=opened.mean,
            std=opened.std,
            name=opened.name,
            epoch=opened.epoch,
            device=device,
        )
        return _at_layer(encoder, layer)
    size = input_size or opened.input_size
    encoder = replace(opened, device=device, input_size=size)
    return encoder if layer is None else replace(_at_layer(encoder, layer), pools=False)


def _silent(_line: str) -> None:
    pass


def _from_path(
    path: Path,
    layer: str | None,
    input_size: int | None,
    *,
    unsafe: bool,
    partial: bool,
    device: torch.device | str,
    say: Say,
) -> Network | Encoder:
    if path.is_dir() and not any(path.glob("*.safetensors*")):
        path = path / NEWEST
        expect_newest(path)
        if not path.exists():
            raise ModelError(
                f"no checkpoint at {path}. Give the folder of a run that `ccrop train` has trained "
                "for at least one epoch, one of its checkpoints, or a folder of safetensors."
            )
    _expect_a_model(path)
    kind = "safetensors" if path.is_dir() else kind_of_file(path)
    if kind == "torchscript":
        if layer:
            raise ModelError(
                f"{path} is TorchScript, whose inner layers cannot be read: only what the program "
                "gives. Leave `layer` out, or save it with torch.export."
            )
        return torchscript_network(path, input_size)
    if kind == "export":
        return exported_network(path, input_size, device, unsafe=unsafe)
    content = read_checkpoint(path, unsafe=unsafe)
    if is_own(content):
        with within(path):
            return own_encoder(content, device)
    if isinstance(content, nn.Module):
        return Network(content, f"pickle:{path.name}", input_size or 224)
    return _network_of(find_weights(content, path), input_size, partial=partial, say=say)


def _expect_a_model(path: Path) -> None:
    if not path.exists():
        raise ModelError(
            f"there is no model {path}: no such file or folder, and it starts with neither "
            "torchvision: nor timm:. docs/models.md lists what a model can be."
        )
    if not (path.is_dir() or path.is_file()):
        raise ModelError(f"{path} is neither a file nor a folder. Copy the model into a file.")


def _network_of(
    checkpoint: Checkpoint, input_size: int | None, *, partial: bool, say: Say
) -> Network:
    path = checkpoint.path
    with reading(path, "holds weights of which no network can be built", _NAME_IT, ModelError):
        network = infer_network(checkpoint, input_size)
        if input_size is not None:
            checkpoint = with_positions_for(network.module, checkpoint)
        say(f"{path}: taken for {network.name}.")
        fit(network.module, checkpoint, partial=partial, say=say)
    return network


def _weights(weights: str | Path | None, *, unsafe: bool) -> Weights:
    if weights is None:
        return "pretrained"
    if weights == "random":
        return "random"
    path = local_path(weights)
    return find_weights(read_weights(path, unsafe=unsafe), path)


def _at_layer(encoder: Encoder, name: str | None) -> Encoder:
    """Return the encoder with a layer, and with what the layer's output looks like."""
    if name is None:
        layer = next((info for info in layers_of(encoder) if info.is_default), None)
        if layer is None:
            remedy = "Give a larger `input_size`."
            if encoder.name.startswith("torchscript:"):
                remedy = (
                    "Of such a program only what it gives is seen: to take its weights alone, "
                    "give torchvision:NAME or timm:NAME, `weights` and `unsafe`."
                )
            raise ModelError(
                f"{encoder.name} has no layer that gives feature maps of more than one cell at "
                f"{encoder.input_size} pixels. {remedy}"
            )
    else:
        chosen = replace(encoder, layer=name)  # a wrong name is refused here
        layer = layer_named(encoder, name)
        if layer is None:
            raise ModelError(
                f"the layer {name!r} of {chosen.name} gives no feature map of more than one "
                "cell. `ccrop boxes layers` lists the layers that do."
            )
    return replace(
        encoder, layer=layer.name, layout=layer.layout, prefix_tokens=layer.prefix_tokens
    )
