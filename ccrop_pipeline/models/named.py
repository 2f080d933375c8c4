"""Networks of torchvision and timm by name, with the size and colours that they expect."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal
from urllib.error import URLError

import torch
from torch import nn

from ccrop_pipeline.base.values import did_you_mean
from ccrop_pipeline.errors import ModelError
from ccrop_pipeline.localize import build_backbone
from ccrop_pipeline.models.checkpoints import Checkpoint
from ccrop_pipeline.models.fitting import fit, with_positions_for
from ccrop_pipeline.models.network import Network, import_timm
from ccrop_pipeline.models.timm_weights import Convert, built_by_timm, converted

Weights = Checkpoint | Literal["pretrained", "random"]
_OURS = "-cifar"
_OWN = "{}'s for its own weights"


def torchvision_network(
    name: str,
    weights: Weights,
    *,
    input_size: int | None,
    partial: bool,
    say: Callable[[str], None],
) -> Network:
    """Build a network of torchvision, or one of its ResNets with the stem for small images.

    Args:
        name: As in `torchvision.models`, or a ResNet's with `-cifar` behind it.
        weights: Of a file, the library's default ones, or random.
        input_size: Side of the images if not the usual one.
        partial: Whether weights that do not fit in full are accepted.
        say: Called with lines for people.

    Raises:
        ModelError: If there is no such network, or its weights cannot be had or do not fit.
    """
    from torchvision import models

    if name.endswith(_OURS):
        if weights == "pretrained":
            raise ModelError(f"torchvision has no weights for {name}: give `weights` a file.")
        network = Network(build_backbone(name), f"torchvision:{name}", input_size or 32)
        return _with_weights(network, weights, input_size=input_size, partial=partial, say=say)
    known = models.list_models(module=models)
    if name not in known:
        raise ModelError(_unknown("torchvision", name, known))
    default = models.get_model_weights(name).DEFAULT
    preset = default.transforms()
    size = input_size or preset.crop_size[0]
    # Only ViTs are built for one size. All others take what comes, or say so when they run.
    sized = {"image_size": size} if name.startswith("vit_") and input_size else {}
    usual = {} if name not in ("googlenet", "inception_v3") else {"init_weights": False}
    try:
        module = models.get_model(name, weights=None, **sized, **usual)
    except AssertionError as error:  # of a ViT whose patches do not fill the image
        raise ModelError(
            f"torchvision:{name} cannot be built for `input_size` {size}: give a multiple of the "
            "side of its patches."
        ) from error
    colours = tuple(preset.mean), tuple(preset.std)
    network = Network(
        module,
        f"torchvision:{name}",
        size,
        *colours,
        colours=_OWN.format("torchvision"),
        options=sized,
    )
    if weights == "pretrained":
        state = _fetched(f"torchvision:{name}", lambda: _read_cached(default))
        weights = Checkpoint(Path(default.url), state, format="torchvision")
    return _with_weights(network, weights, input_size=input_size, partial=partial, say=say)


_ELSEWHERE = ("hf-hub:", "local-dir:", "hf_hub:")


def timm_network(
    name: str,
    weights: Weights,
    *,
    input_size: int | None,
    partial: bool,
    say: Callable[[str], None],
    any_size: bool = False,
    drop_path_rate: float = 0.0,
) -> Network:
    """Build a network of timm; its arguments are those of `torchvision_network`.

    With `any_size`, a ViT also takes images of other sizes than `input_size`. `drop_path_rate` is
    for networks that know stochastic depth, and passed over by others.

    Raises:
        ModelError: If timm is missing, has no such network, or its weights cannot be had or do not
            fit.
    """
    timm = import_timm()
    label = f"timm:{name}"
    _expect_in_timm(timm, name)

    def build(**options: Any) -> tuple[nn.Module, Convert | None]:
        options["num_classes"] = 0
        if isinstance(weights, Checkpoint):
            return built_by_timm(name, **options)
        return timm.create_model(name, pretrained=weights == "pretrained", **options), None

    # Convolutional networks are not built for a size.
    sizes: list[dict[str, Any]] = [] if input_size is None else [{"img_size": input_size}]
    if any_size:
        sizes.insert(0, {**sizes[0], "dynamic_img_size": True})
    dropped = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}

    taken: dict[str, Any] = {}

    def sized(**options: Any) -> tuple[nn.Module, Convert | None]:
        for size in [*sizes, *([{}] if dropped else [])]:
            with suppress(TypeError):
                built = build(**size, **dropped, **options)
                taken.update(size)
                return built
        return build(**options)

    module, convert = _fetched(label, sized)
    if isinstance(weights, Checkpoint):
        found = converted(module, convert, weights)
        if found.lost and all(name.endswith(".qkv.bias") for name in found.lost):
            # DINOv3: timm builds it without biases, for those of some published sizes are 0.
            module, convert = sized(qkv_bias=True)
            found = converted(module, convert, weights)
        found.account(label, partial=partial, say=say)
        weights = found.checkpoint
    config = timm.data.resolve_model_data_config(module)
    size = input_size or config["input_size"][-1]
    colours = tuple(config["mean"]), tuple(config["std"])
    network = Network(module, label, size, *colours, colours=_OWN.format("timm"), options=taken)
    if weights == "pretrained":
        return network
    return _with_weights(network, weights, input_size=input_size, partial=partial, say=say)


def _expect_in_timm(timm: Any, name: str) -> None:
    if "/" not in name and not timm.is_model(name):
        raise ModelError(_unknown("timm", name, timm.list_models(pretrained=True)))
    if "/" in name and not name.startswith(_ELSEWHERE):
        raise ModelError(
            f"timm has no network {name!r}: a name with a slash is taken from a hub or a folder, "
            f"as timm:{_ELSEWHERE[0]}{name} or timm:{_ELSEWHERE[1]}{name}."
        )


def _with_weights(
    network: Network,
    weights: Weights,
    *,
    input_size: int | None,
    partial: bool,
    say: Callable[[str], None],
) -> Network:
    if not isinstance(weights, Checkpoint):
        say(f"{network.name}: random weights; what it finds means nothing.")
        return replace(network, epoch=0)
    if input_size is not None:
        weights = with_positions_for(network.module, weights)
    fit(network.module, weights, partial=partial, say=say)
    if network.colours != Network.colours:
        network = replace(network, colours=f"{network.colours}, assumed for this file as well")
    return replace(network, epoch=weights.epoch)


def _read_cached(weights: Any) -> Any:
    """Return torchvision's weights, downloaded where they are not in torch's cache.

    Raises:
        OSError: If the file in the cache is damaged, or holds more than weights.
    """
    try:
        return weights.get_state_dict(progress=False, weights_only=True)
    except (UnpicklingError, EOFError) as error:
        file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        raise OSError(f"{file} is damaged or no file of weights: delete it") from error


def _fetched(label: str, get: Callable[[], Any]) -> Any:
    try:
        return get()
    except (OSError, URLError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"the pretrained weights of {label} cannot be had: {lines[0].rstrip('.')}. They come "
            "over the network or from the library's cache on this machine. Give "
            "`weights` a file, or fetch them once where there is a network."
        ) from error


def _unknown(library: str, name: str, known: list[str]) -> str:
    close = did_you_mean(name, known, most=3)
    return f"{library} has no network {name!r}{close}; it has {len(known)} others."
