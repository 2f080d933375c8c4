"""Blocks of a network: frozen, slowed down, computed again."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.localize import build_backbone
from ccrop_pipeline.localize.backbones import Backbone
from ccrop_pipeline.methods.batch_norm import SynchronisedBatchNorm, synchronise
from ccrop_pipeline.models.trainable import open_backbone


def test_blocks_of_a_resnet_are_those_of_the_paper():
    depths = build_backbone("resnet18").depths()
    assert depths["conv1.weight"] == depths["bn1.bias"] == 0
    found = [
        depths[f"layer{stage}.{block}.conv2.weight"] for stage in range(1, 5) for block in (0, 1)
    ]
    assert found == [*range(1, 9)]
    assert depths["layer2.0.downsample.0.weight"] == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_vit", {"cls_token": 0, "patch_embed.proj.weight": 0, "blocks.0.norm1.bias": 1}),
        ("test_vit", {"blocks.5.mlp.fc2.weight": 6, "norm.weight": 6}),
        ("test_efficientnet", {"conv_stem.weight": 0, "bn1.weight": 0, "conv_head.weight": 6}),
        (
            "test_convnext",
            {"stem.0.weight": 0, "stem.1.weight": 0, "stages.0.blocks.0.norm.bias": 1},
        ),
    ],
)
def test_blocks_of_networks_of_timm(name, expected):
    pytest.importorskip("timm")
    depths = open_backbone(f"timm:{name}", [32]).depths()
    assert {key: depths[f"network.{key}"] for key in expected} == expected


def test_frozen_blocks_keep_weights_and_statistics():
    backbone = build_backbone("resnet18")
    backbone.freeze(2)
    follower = copy.deepcopy(backbone)
    for parameter in follower.parameters():
        parameter.requires_grad_(False)  # as a momentum encoder
    before = copy.deepcopy(backbone.state_dict())
    assert backbone.training  # as it was built: nobody need call `train`
    backbone(torch.randn(4, 3, 32, 32)).sum().backward()
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    for name, value in backbone.state_dict().items():
        frozen = name.startswith(("conv1", "bn1", "layer1.0"))
        assert torch.equal(value, before[name]) == frozen, name
    assert follower.train().layer4[1].bn2.training
    assert not follower.layer1[0].bn2.training
    with pytest.raises(SettingError, match="freeze is 9, and resnet18 has 9 blocks"):
        backbone.freeze(9)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_the_first_block_of_a_transformer_is_its_patch_projection(library):
    if library == "timm":
        network = pytest.importorskip("timm").create_model("test_vit", img_size=32)
        patches, tokens = "patch_embed.proj.weight", ("cls_token", "pos_embed")
    else:
        network = VisionTransformer(32, 16, 2, 2, 8, 8)
        patches, tokens = "conv_proj.weight", ("class_token", "encoder.pos_embedding")
    backbone = Backbone("a ViT", {"network": network}, 8, "")
    frozen = []
    for blocks in (0, 1, 2):
        backbone.freeze(blocks)
        learns = {name: p.requires_grad for name, p in network.named_parameters()}
        frozen.append((not learns[patches], {not learns[token] for token in tokens}))
    assert frozen == [(False, {False}), (True, {False}), (True, {True})]


@pytest.mark.parametrize("name", ["resnet18", "timm:test_vit", "timm:test_efficientnet"])
def test_blocks_that_are_computed_again_give_the_same(name):
    if ":" in name:
        pytest.importorskip("timm")
    torch.manual_seed(0)
    plain = open_backbone(name, [32]).train()
    again = copy.deepcopy(plain)
    again.checkpoint_blocks()
    images = torch.randn(4, 3, 32, 32)
    for backbone in (plain, again):
        backbone(images).square().sum().backward()
    kept = plain.state_dict()
    assert all(torch.equal(value, kept[key]) for key, value in again.state_dict().items())
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert saved_bytes(again, images) < saved_bytes(plain, images) / 1.5


def saved_bytes(backbone, images):
    seen = {}

    def pack(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = backbone(images)  # noqa: F841
    return sum(size for place, size in seen.items() if place not in weights)


def test_timms_batch_norm_is_synchronised_with_its_activation():
    pytest.importorskip("timm")
    backbone = open_backbone("timm:test_efficientnet", [32]).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = backbone(images)
        synchronise(backbone)
        norms = [part for part in backbone.modules() if isinstance(part, nn.BatchNorm2d)]
        assert not norms
        assert any(isinstance(part, SynchronisedBatchNorm) for part in backbone.modules())
        assert torch.equal(backbone(images), expected)
    assert isinstance(copy.deepcopy(backbone), Backbone)
