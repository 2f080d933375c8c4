"""Queries and keys; the oracle is the attention that the libraries compute themselves."""

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from ccrop_pipeline.errors import CcropError, ModelError
from ccrop_pipeline.localize import Attention, Encoder, Localizer

timm = pytest.importorskip("timm")


def made_images(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)


def weights_of(attention: Attention) -> Tensor:
    logits = attention.scale * attention.queries @ attention.keys.transpose(-2, -1)
    return logits.softmax(dim=-1)


def weights_by_timm(encoder: Encoder, layer: str, images: Tensor) -> Tensor:
    """What timm hands to the dropout of its attention weights when it does not fuse them."""
    part = encoder.module.get_submodule(layer)
    part.fused_attn = False
    seen: list[Tensor] = []
    handle = part.attn_drop.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    encoder.run(images)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("name", "options", "size", "prefix"),
    [
        ("vit_tiny_patch16_224", {}, 64, 1),
        ("vit_tiny_patch16_224", {"qk_norm": True}, 64, 1),
        ("deit_tiny_distilled_patch16_224", {}, 64, 2),
        ("eva02_tiny_patch14_224", {}, 56, 1),  # rotary positions, separate projections
        ("vit_small_patch16_dinov3", {}, 64, 5),  # registers, rotary positions, half rotation
        ("eva_giant_patch14_224", {"embed_dim": 96, "num_heads": 4}, 56, 1),  # biases apart
    ],
)
def test_timms_attention(name: str, options: dict, size: int, prefix: int) -> None:
    torch.manual_seed(0)
    module = timm.create_model(name, img_size=size, depth=2, num_classes=0, **options)
    for parameter_name, parameter in module.named_parameters():
        if parameter_name.endswith("bias"):
            nn.init.normal_(parameter, std=0.5)  # those that start at 0 must count too
    images = made_images(size)
    for layer in ("blocks.1", "blocks.1.attn"):
        encoder = Encoder(module, layer, size, layout="tokens", prefix_tokens=prefix)
        assert encoder.has_attention
        found = encoder.attention(images)
        side = size // (14 if "14" in name else 16)
        assert (found.prefix_tokens, found.grid) == (prefix, (side, side))
        assert found.queries.shape[2] == prefix + side**2
        expected = weights_by_timm(encoder, "blocks.1.attn", images)
        torch.testing.assert_close(weights_of(found), expected)


class Tokens(nn.Module):
    """A class token and one token for each of 4 x 4 patches of 16 px."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.first = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).mT
        return torch.cat([self.first.expand(len(images), -1, -1), patches], dim=1)


class Grouped(nn.Module):
    """Self-attention of 6 heads of queries and 2 of keys and values, computed by torch."""

    num_heads, num_kv_heads = 6, 2

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, 6 * head)
        self.k_proj, self.v_proj = nn.Linear(width, 2 * head), nn.Linear(width, 2 * head)
        self.proj, self.head = nn.Linear(6 * head, width), head

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = (
            part(tokens).unflatten(-1, (-1, self.head)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        # What it makes of the identity as values are the weights themselves.
        identity = torch.eye(tokens.shape[1]).expand(len(tokens), 2, -1, -1)
        self.weights, mixed = (
            nn.functional.scaled_dot_product_attention(queries, keys, some, enable_gqa=True)
            for some in (identity, values)
        )
        return self.proj(mixed.transpose(1, 2).flatten(2))


def test_queries_that_share_keys_in_groups() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(Tokens(12), Grouped(12, 4))
    encoder = Encoder(module, "1", 64, layout="tokens", prefix_tokens=1)
    found = encoder.attention(made_images(64))
    assert found.queries.shape == found.keys.shape == (2, 6, 17, 4)
    torch.testing.assert_close(weights_of(found), module[1].weights)
    assert (module[1].weights[:, 1] - module[1].weights[:, 4]).abs().max() > 1e-3


def test_torchvisions_attention() -> None:
    torch.manual_seed(0)
    module = models.VisionTransformer(64, 16, 2, 3, 48, 96)
    nn.init.normal_(module.encoder.layers[1].self_attention.in_proj_bias)
    layer = "encoder.layers.encoder_layer_1"
    encoder = Encoder(module, layer, 64, layout="tokens", prefix_tokens=1)
    images = made_images(64)
    tokens: list[Tensor] = []
    block = module.get_submodule(layer)
    handle = block.ln_1.register_forward_hook(lambda _, args, output: tokens.append(output))
    found = encoder.attention(images)
    handle.remove()
    with torch.inference_mode():
        x = tokens[0]
        expected = block.self_attention(x, x, x, average_attn_weights=False)[1]
    torch.testing.assert_close(weights_of(found), expected)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("beit_base_patch16_224", "blocks.1"),  # a table of relative positions
        ("xcit_nano_12_p16_224", "blocks.1"),  # attention between channels
        ("vit_tiny_patch16_224", "blocks"),  # two at once
        ("vit_tiny_patch16_224", "norm"),
        ("mixer_s32_224", "blocks.1"),
    ],
)
def test_other_attention_is_refused_rather_than_misread(name: str, layer: str) -> None:
    options = {"img_size": 64} if "mixer" in name else {"img_size": 64, "depth": 2}
    options |= {"embed_dim": 96, "num_heads": 4} if "beit" in name else {}
    module = timm.create_model(name, num_classes=0, **options)
    encoder = Encoder(module, layer, 64, layout="tokens", name=name)
    assert not encoder.has_attention
    with pytest.raises(CcropError, match=f"'{layer}' of {name} is not a block .*`ccrop boxes"):
        encoder.attention(made_images(64))


def test_convolutions_have_none() -> None:
    encoder = Encoder(models.resnet18(weights=None), "layer4", 64)
    assert not encoder.has_attention
    with pytest.raises(CcropError, match="not a block of a vision transformer"):
        encoder.attention(made_images(64))


@pytest.mark.parametrize(
    ("name", "prefix", "has"),
    [
        ("vit_little_patch16_reg4_gap_256", 4, False),  # registers alone
        ("vit_small_patch14_reg4_dinov2", 5, True),
        ("vit_base_patch16_siglip_gap_224", 0, False),
    ],
)
def test_a_register_is_not_taken_for_a_class_token(name: str, prefix: int, has: bool) -> None:
    size = 56 if "14" in name else 64
    module = timm.create_model(name, img_size=size, depth=1, num_classes=0)
    encoder = Encoder(module, "blocks.0", size, layout="tokens", prefix_tokens=prefix)
    assert encoder.has_attention
    assert encoder.has_class_token == has
    for heatmap in ("attention", "attention-max"):
        if has:
            Localizer(encoder, heatmap)
        else:
            with pytest.raises(ModelError, match=r"attention of a class token, and .* has none"):
                Localizer(encoder, heatmap)
    Localizer(encoder, "keys")
