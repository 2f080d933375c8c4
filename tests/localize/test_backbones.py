import copy

import pytest
import torch
from torch import nn
from torchvision import models

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import backbone_names, build_backbone
from ccrop_pipeline.recipes.recipe import BACKBONES


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "size", "cells", "feature_dim"),
    [
        ("small", 32, 4, 128),
        ("small", 96, 12, 128),
        ("resnet18", 64, 2, 512),
        ("resnet18-cifar", 32, 4, 512),
        ("resnet50", 32, 1, 2048),
        ("resnet50-cifar", 16, 2, 2048),
    ],
)
def test_shapes(name: str, size: int, cells: int, feature_dim: int) -> None:
    backbone = build_backbone(name)
    maps: list[torch.Tensor] = []
    layer = backbone.get_submodule(backbone.layer)
    layer.register_forward_hook(lambda _module, _args, output: maps.append(output))
    with torch.inference_mode():
        features = backbone(torch.randn(2, 3, size, size))
    assert features.shape == (2, feature_dim)
    assert backbone.feature_dim == feature_dim
    assert backbone.name == name
    assert maps[0].shape == (2, feature_dim, cells, cells)
    assert maps[0].min() == 0  # the map is the one after the last ReLU
    torch.testing.assert_close(maps[0].mean(dim=(2, 3)), features)


# Without the classifier. ResNets: torchvision's published totals less fc (for the CIFAR form
# also 7x7 -> 3x3 in conv1: 3 * 64 * 40 fewer); small: nine times the width products, plus two
# parameters of batch normalisation a channel.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", 11_689_512 - 513_000),
        ("resnet18-cifar", 11_168_832),
        ("resnet50", 25_557_032 - 2_049_000),
        ("wide_resnet50_2", 68_883_240 - 2_049_000),
        (
            "small",
            9 * (3 * 16 + 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128)
            + 2 * 2 * (16 + 32 + 64 + 128),
        ),
    ],
)
def test_parameter_counts(name: str, expected: int) -> None:
    assert parameters(build_backbone(name)) == expected


def test_resnet_is_torchvisions_with_its_own_keys() -> None:
    backbone = build_backbone("resnet18").eval()
    reference = models.resnet18(weights=None)
    reference.fc = nn.Identity()
    reference.load_state_dict(backbone.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(backbone(images), reference.eval()(images))


def test_cifar_resnet_is_torchvisions_but_for_the_stem() -> None:
    backbone = build_backbone("resnet18-cifar").eval()
    reference = models.resnet18(weights=None)
    reference.fc, reference.maxpool = nn.Identity(), nn.Identity()
    reference.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    reference.load_state_dict(backbone.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(backbone(images), reference.eval()(images))
    # He initialisation over the fan out, as torchvision gives every other convolution.
    assert backbone.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


def test_copy_is_independent() -> None:
    backbone = build_backbone("small")
    twin = copy.deepcopy(backbone)
    next(twin.parameters()).data.zero_()
    assert next(backbone.parameters()).any()
    assert (twin.name, twin.layer, twin.feature_dim) == ("small", "layer4", 128)


@pytest.mark.slow
def test_small_learns() -> None:
    """Two kinds of images that differ only in where they are bright, told apart in 15 steps."""
    torch.manual_seed(0)
    backbone = build_backbone("small")
    head = nn.Linear(backbone.feature_dim, 2)
    labels = torch.arange(32) % 2
    images = torch.randn(32, 3, 32, 32)
    images[labels == 1, :, :, ::2] += 1
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.1)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(head(backbone(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_every_name_is_a_resnet_or_small() -> None:
    names = backbone_names()
    assert names[0] == "small"
    assert all("resne" in name for name in names[1:])
    assert {"small", "resnet18", "resnet34-cifar", "resnext50_32x4d", "wide_resnet50_2"} < set(
        names
    )
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("resnet81", "did you mean .*resnet18"),
        ("resnet18_cifar", "did you mean resnet18-cifar"),
        ("vgg16", "there is no backbone 'vgg16'"),
        ("??", "Known are: small, resnet101"),
        ("small-cifar", "there is no backbone 'small-cifar'"),
    ],
)
def test_unknown_name_comes_with_advice(name: str, advice: str) -> None:
    with pytest.raises(CcropError, match=advice):
        build_backbone(name)


def test_recipes_know_the_same_names():
    assert {*BACKBONES} == {*backbone_names()}
