"""Which network the weights of a file are of, told by their names and shapes."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from ccrop_pipeline.errors import ModelError, few, shown
from ccrop_pipeline.localize import backbone_names, build_backbone
from ccrop_pipeline.models.checkpoints import Checkpoint
from ccrop_pipeline.models.fitting import best_match, shapes_of
from ccrop_pipeline.models.network import Network, import_timm

_CIFAR_SIZE, _USUAL_SIZE = 32, 224
# Networks of one set of names that compute different things.
_TO_BE_NAMED = (
    (r"(^|\.)storage_tokens$", "DINOv3", "vit_small_patch16_dinov3"),
    (r"(^|\.)visual\.class_embedding$", "CLIP", "vit_base_patch32_clip_quickgelu_224"),
    (r"(^|\.)visual\.attnpool\.", "CLIP", "resnet50_clip"),
)
_HEAD_WIDTH = 64  # channels of each attention head in ViT, DeiT and DINO of every size up to L


def infer_network(checkpoint: Checkpoint, input_size: int | None) -> Network:
    """Build the network that a checkpoint was saved from, its weights still random.

    ResNets and torchvision's ViTs are those of torchvision whose shapes fit best; other ViTs are
    built after their shapes.

    Args:
        checkpoint: What the file holds.
        input_size: Side of the images if it is to be another than the usual one.

    Raises:
        ModelError: If the weights are of no network that is known here.
    """
    keys = checkpoint.state
    for pattern, project, example in _TO_BE_NAMED:
        if any(re.search(pattern, key) for key in keys):
            raise ModelError(
                f"{checkpoint.path} has the names of {project}, whose variants its weights do not "
                f"tell apart. Name the network, such as timm:{example} with `weights`."
            )
    if any(re.search(r"(^|\.)layer1\.0\.conv1\.weight$", key) for key in keys):
        return _resnet(checkpoint, input_size)
    if any(re.search(r"(^|\.)conv_proj\.weight$", key) for key in keys):
        return _torchvision_vit(checkpoint, input_size)
    if any(re.search(r"(^|\.)patch_embed\.proj\.weight$", key) for key in keys):
        return _vit(checkpoint, input_size)
    raise ModelError(
        f"the architecture of {checkpoint.path} cannot be told from its "
        f"weights, {few(keys)}"
        + (f"; it calls itself {shown(checkpoint.arch)}" if checkpoint.arch else "")
        + ". Name it as the model, torchvision:NAME or timm:NAME, and give this "
        "file as `weights`; or write a function that builds it (module.py:function)."
    )


def _resnet(checkpoint: Checkpoint, input_size: int | None) -> Network:
    stem = next((v for k, v in checkpoint.state.items() if re.search(r"(^|\.)conv1\.weight$", k)))
    small = stem.shape[-1] == 3
    names = [name for name in backbone_names() if name.endswith("-cifar") == small]
    name = _closest(checkpoint, [n for n in names if n != "small"], _meta_backbone)
    module = build_backbone(name)
    if small and checkpoint.format_under("backbone.") == "solo-learn":
        # Its CIFAR stem is padded by 2, which moves every cell by a pixel.
        module.get_submodule("conv1").padding = (2, 2)  # type: ignore[assignment]
    if checkpoint.bare_stem:
        module.relu = nn.Identity()
    size = input_size or (_CIFAR_SIZE if small else _USUAL_SIZE)
    return Network(module, name, size, epoch=checkpoint.epoch)


def _torchvision_vit(checkpoint: Checkpoint, input_size: int | None) -> Network:
    from torchvision import models

    names = models.list_models(module=models, include=["vit_*"])
    name = _closest(checkpoint, names, _meta_torchvision)
    size = input_size or _USUAL_SIZE
    module = models.get_model(name, weights=None, image_size=size)
    return Network(module, name, size, epoch=checkpoint.epoch)


def _closest(
    checkpoint: Checkpoint,
    names: list[str],
    shapes: Callable[[str], dict[str, tuple[int, ...]]],
) -> str:
    """Return the name whose network has the most weights of the file and the fewest others."""

    def fits(name: str) -> tuple[int, int]:
        match = best_match(checkpoint.state, shapes(name))
        if match is None:
            return 0, 0
        return len(match.fitting), -len(match.missing) - len(match.reshaped)

    best = max(names, key=fits)
    if fits(best)[0] == 0:
        raise ModelError(
            f"the weights of {checkpoint.path} have the names of a known network but other "
            "shapes. Name the architecture: timm:NAME with `weights`, or module.py:factory."
        )
    return best


@lru_cache
def _meta_backbone(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return shapes_of(build_backbone(name))


@lru_cache
def _meta_torchvision(name: str) -> dict[str, tuple[int, ...]]:
    from torchvision import models

    with torch.device("meta"):
        return shapes_of(models.get_model(name, weights=None))


def _vit(checkpoint: Checkpoint, input_size: int | None) -> Network:
    prefix, state = _vit_weights(checkpoint)
    unknown = [
        k
        for k in ("mlp.w12.weight", "attn.relative_position_bias_table", "attn.q_bias")
        if f"blocks.0.{k}" in state
    ]
    convolutional = "patch_embed.proj.weight" not in state
    if convolutional or unknown or "pos_embed" not in state or "dist_token" in state:
        raise ModelError(
            f"{checkpoint.path} holds a transformer that is no plain ViT"
            + (f" ({', '.join(unknown)})" if unknown else "")
            + ". Name it: timm:NAME with `weights`, or module.py:factory."
        )
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    extra = [name for name in ("cls_token", "reg_token") if name in state]
    prefix_tokens = sum(state[name].shape[1] for name in extra)
    heads = _heads(width, prefix)
    positions = state["pos_embed"].shape[1]
    # There are positions for every token, or for the patches alone.
    placed = prefix_tokens if isqrt(positions) ** 2 != positions else 0
    grid = isqrt(positions - placed)
    size = input_size or grid * patch
    depth = _depth(state)
    build = partial(_build_vit, state, size, patch, heads, no_embed_class=placed == 0)
    if depth > len(state) or not _is_in(state, build):
        raise ModelError(
            f"the weights of {checkpoint.path} are too few for the ViT that their names and shapes "
            f"are of (width {width}, depth {depth}). Name it: timm:NAME with `weights`."
        )
    module = build()
    name = f"vit(width {width}, depth {depth}, heads {heads}, patch {patch})"
    return Network(module, name, size, epoch=checkpoint.epoch)


def _vit_weights(checkpoint: Checkpoint) -> tuple[str, dict[str, Tensor]]:
    """Return the weights of the copy that is to be taken, with its prefix taken off."""
    mark = "patch_embed.proj.weight"
    shapes = (tuple(v.shape) for k, v in checkpoint.state.items() if k.endswith(mark))
    match = best_match(checkpoint.state, {mark: next(shapes)})
    assert match is not None
    under = {
        key.removeprefix(match.prefix): value
        for key, value in checkpoint.state.items()
        if key.startswith(match.prefix)
    }
    return match.prefix, under


def _is_in(state: Mapping[str, Tensor], build: Callable[[], nn.Module]) -> bool:
    """Tell whether a network is hardly larger than the weights, before it takes any memory."""
    with torch.device("meta"):
        size = sum(weight.numel() for weight in build().parameters())
    return size <= 2 * sum(weight.numel() for weight in state.values())


def _heads(width: int, prefix: str) -> int:
    if re.search(r"(base|momentum)_encoder\.$", prefix) and width == 384:
        return 12  # section 4.1 of MoCo v3 (arXiv:2104.02057): twice as many as DeiT-S
    return max(1, width // _HEAD_WIDTH)


def _depth(state: Mapping[str, Any]) -> int:
    return 1 + max(int(m[1]) for k in state if (m := re.match(r"blocks\.(\d+)\.", k)))


def _build_vit(
    state: Mapping[str, Tensor], size: int, patch: int, heads: int, *, no_embed_class: bool
) -> nn.Module:
    import_timm()
    from timm.models.vision_transformer import VisionTransformer

    width = state["patch_embed.proj.weight"].shape[0]
    built: nn.Module = VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=width,
        depth=_depth(state),
        num_heads=heads,
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        init_values=1.0 if "blocks.0.ls1.gamma" in state else None,
        class_token="cls_token" in state,
        reg_tokens=state["reg_token"].shape[1] if "reg_token" in state else 0,
        no_embed_class=no_embed_class,
        global_pool="token" if "cls_token" in state else "avg",
        fc_norm=False,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    return built
