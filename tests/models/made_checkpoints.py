"""Checkpoints as other repositories save them, around the weights of a given network.

The names were looked up in the repositories; each function notes where.
"""

import re
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

State = dict[str, Tensor]


def stirred(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with every weight and running statistic random, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(1 + 0.1 * noise.abs())
            elif value.ndim > 1:
                value.copy_(noise * value[0].numel() ** -0.5)
            else:
                value.add_(0.1 * noise)
    return module.eval()


def resnet18(small: bool = False) -> nn.Module:
    """torchvision's ResNet-18, or with the stem for small images, by hand."""
    module = models.resnet18(weights=None)
    if small:
        module.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        module.maxpool = nn.Identity()
    return stirred(module)


def _under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def _headless(state: State) -> State:
    return {k: v for k, v in state.items() if not k.startswith(("fc.", "head."))}


def _other(state: State) -> State:
    """Another copy of the same network, so that taking the wrong one shows."""
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


def _mlp(prefix: str, numbers: tuple[int, ...] = (0, 2)) -> State:
    return {f"{prefix}.{n}.{kind}": torch.zeros(4) for n in numbers for kind in ("weight", "bias")}


def moco(state: State) -> Any:
    """facebookresearch/moco: main_moco.py saves, main_lincls.py strips."""
    body = _headless(state)
    return {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": _under("module.encoder_q.", body)
        | _mlp("module.encoder_q.fc")
        | _under("module.encoder_k.", _other(body))
        | _mlp("module.encoder_k.fc")
        | {"module.queue": torch.zeros(128, 8), "module.queue_ptr": torch.zeros(1)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]},
    }


def moco_v3(state: State) -> Any:
    """facebookresearch/moco-v3: base and momentum encoder, each with its projector as head."""
    body = _headless(state)
    return {
        "epoch": 300,
        "arch": "vit_small",
        "state_dict": _under("module.momentum_encoder.", _other(body))
        | _under("module.base_encoder.", body)
        | _mlp("module.base_encoder.head")
        | _mlp("module.base_encoder.fc")
        | _mlp("module.predictor"),
        "optimizer": {},
        "scaler": {},
    }


def simsiam(state: State) -> Any:
    """facebookresearch/simsiam."""
    return {
        "epoch": 100,
        "arch": "resnet18",
        "state_dict": _under("module.encoder.", _headless(state))
        | _mlp("module.encoder.fc")
        | _mlp("module.predictor"),
    }


def simclr(state: State) -> Any:
    """sthalles/SimCLR: the projector is the classifier of the backbone."""
    return {
        "epoch": 100,
        "arch": "resnet18",
        "state_dict": _under("backbone.", _headless(state)) | _mlp("backbone.fc"),
    }


def simclr_sequential(state: State) -> Any:
    """leftthomas/SimCLR: the children as `f`, no max-pooling among them, so numbers differ."""
    names = ["conv1", "bn1", "relu", "layer1", "layer2", "layer3", "layer4"]
    return _numbered("f.", names, state) | _mlp("g")


def contrastive_crop_moco(state: State) -> Any:
    """xyupeng/ContrastiveCrop, DDP_moco_ccrop.py."""
    return {"moco_state": moco(state)["state_dict"], "optimizer_state": {}, "epoch": 60}


def contrastive_crop_simclr(state: State) -> Any:
    """xyupeng/ContrastiveCrop: the encoder alone, with its projector as `fc`."""
    weights = _under("module.", _headless(state)) | _mlp("module.fc")
    return {"simclr_state": weights, "optimizer_state": {}, "epoch": 60}


def contrastive_crop_byol(state: State) -> Any:
    """xyupeng/ContrastiveCrop, models/byol.py."""
    body = _headless(state)
    weights = (
        _under("module.encoder_q.", body)
        | _under("module.encoder_k.", _other(body))
        | _mlp("module.predictor")
    )
    return {"byol_state": weights, "epoch": 60}


def byol(state: State) -> Any:
    """sthalles/PyTorch-BYOL: the encoder without its classifier, the projector beside it."""
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    online = _numbered("encoder.", names, state) | _mlp("projetion.net")
    return {
        "online_network_state_dict": online,
        "target_network_state_dict": _other(online),
        "optimizer_state_dict": {},
    }


def lightly(state: State) -> Any:
    """lightly's tutorials: nn.Sequential of the children, saved by Lightning."""
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    online = _numbered("backbone.", names, state)
    momentum = _other(_numbered("backbone_momentum.", names, state))
    heads = _mlp("projection_head.layers") | _mlp("projection_head_momentum.layers")
    return {
        "epoch": 9,
        "global_step": 100,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": momentum | online | heads,
    }


def solo_learn(state: State) -> Any:
    """vturrisi/solo-learn, solo/methods/base.py and byol.py."""
    body = _headless(state)
    return {
        "epoch": 399,
        "pytorch-lightning_version": "1.6.4",
        "state_dict": _under("momentum_backbone.", _other(body))
        | _under("backbone.", body)
        | {"classifier.weight": torch.zeros(10, 512), "classifier.bias": torch.zeros(10)}
        | _mlp("projector")
        | _mlp("momentum_projector")
        | _mlp("predictor"),
    }


def vissl(state: State) -> Any:
    """facebookresearch/vissl, extra_scripts/convert_vissl_to_torchvision.py."""
    trunk = _under("_feature_blocks.", _headless(state))
    heads = {"0.clf.0.weight": torch.zeros(4)}
    return {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": heads}}}}


def dino(state: State) -> Any:
    """facebookresearch/dino, main_dino.py: argument list and all."""
    body = _headless(state)
    return {
        "student": _under("module.backbone.", _other(body)) | _mlp("module.head.mlp"),
        "teacher": _under("backbone.", body) | _mlp("head.mlp"),
        "optimizer": {},
        "epoch": 100,
        "args": Namespace(arch="vit_small", patch_size=16),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }


def dinov3(state: State) -> State:
    """facebookresearch/dinov3, models/vision_transformer.py and layers/attention.py.

    Takes the state of timm's network, whose keys have no bias.
    """
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    made = {"mask_token": torch.zeros(1, 8), "rope_embed.periods": torch.ones(16)}
    for name, value in state.items():
        head, _, last = name.rpartition(".")
        if last in ("q_bias", "k_bias", "v_bias"):
            continue
        made[f"{head}.{names[last]}" if head and last in names else names.get(name, name)] = value
        if name.endswith("attn.qkv.weight"):
            query = state.get(f"{head.removesuffix('.qkv')}.q_bias", torch.zeros(len(value) // 3))
            values = state.get(f"{head.removesuffix('.qkv')}.v_bias", torch.zeros(len(value) // 3))
            made[f"{head}.bias"] = torch.cat([query, torch.zeros_like(query), values])
            made[f"{head}.bias_mask"] = torch.ones(len(value))
    return made


def clip(visual: State) -> State:
    """openai/CLIP, model.py: the text encoder beside the image encoder."""
    text = {
        "positional_embedding": torch.zeros(7, 8),
        "text_projection": torch.zeros(8, 8),
        "logit_scale": torch.ones([]),
        "token_embedding.weight": torch.zeros(9, 8),
        "ln_final.weight": torch.ones(8),
        "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(24, 8),
        "transformer.resblocks.0.mlp.c_fc.weight": torch.zeros(32, 8),
    }
    return text | _under("visual.", visual)


def clip_vit(state: State) -> State:
    """The image encoder of openai/CLIP as a transformer; takes the state of timm's."""
    made = {"proj": torch.zeros(len(state["norm.weight"]), 8)}
    for name, value in state.items():
        if name == "cls_token":
            made["class_embedding"] = value[0, 0]
        elif name == "pos_embed":
            made["positional_embedding"] = value[0]
        else:
            made[_clip_vit_name(name)] = value
    return clip(made)


def _clip_vit_name(name: str) -> str:
    block = re.fullmatch(r"blocks\.(\d+)\.(.*)", name)
    if block is None:
        part, _, kind = name.rpartition(".")
        return {"patch_embed.proj": "conv1", "norm_pre": "ln_pre", "norm": "ln_post"}[
            part
        ] + f".{kind}"
    part, _, kind = block[2].rpartition(".")
    inside = {
        "norm1": "ln_1.",
        "norm2": "ln_2.",
        "attn.qkv": "attn.in_proj_",
        "attn.proj": "attn.out_proj.",
        "mlp.fc1": "mlp.c_fc.",
        "mlp.fc2": "mlp.c_proj.",
    }[part]
    return f"transformer.resblocks.{block[1]}.{inside}{kind}"


def clip_resnet(state: State) -> State:
    """The ModifiedResNet of openai/CLIP; takes the state of timm's."""
    made = {f"attnpool.{name}_proj.weight": torch.zeros(8, 8) for name in "kqvc"}
    kinds = {"conv1_1x1": "1", "conv2_kxk": "2", "conv3_1x1": "3"}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "stem":  # stem.conv1.bn.weight
            which = parts[2] + parts[1][-1]
            made[f"{which}.{parts[3]}"] = value
        elif parts[0] == "stages":  # stages.0.1.conv2_kxk.bn.weight
            block = f"layer{int(parts[1]) + 1}.{parts[2]}"
            kind = parts[-2]
            which = f"{kind}{kinds[parts[3]]}" if parts[3] in kinds else _downsample(kind)
            made[f"{block}.{which}.{parts[-1]}"] = value
    return clip(made)


def _downsample(kind: str) -> str:
    return {"conv": "downsample.0", "bn": "downsample.1"}[kind]


def plain(state: State) -> Any:
    """A state dict of torchvision, classifier included."""
    return state


def _numbered(prefix: str, names: list[str], state: State) -> State:
    return {
        f"{prefix}{names.index(k.split('.')[0])}.{k.split('.', 1)[1]}": v
        for k, v in _headless(state).items()
    }


RESNETS: list[Callable[[State], Any]] = [
    moco,
    moco_v3,
    simsiam,
    simclr,
    simclr_sequential,
    contrastive_crop_moco,
    contrastive_crop_simclr,
    contrastive_crop_byol,
    byol,
    lightly,
    solo_learn,
    vissl,
    dino,
    plain,
]
