import hashlib
import struct

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import functional as vision

from ccrop_pipeline.boxset import EncoderInfo
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    BoxRule,
    Encoder,
    boxes_from_heatmaps,
    build_backbone,
    channel_sum,
    min_max,
    weights_sha256,
)

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone("small")


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)


def by_hand(backbone: Backbone, images: Tensor, mean: tuple, std: tuple) -> Tensor:
    features = torch.stack([vision.normalize(image / 255, mean, std) for image in images])
    backbone.eval()
    with torch.no_grad():
        for number in range(1, 5):
            features = backbone.get_submodule(f"layer{number}")(features)
    return features


@pytest.mark.parametrize("channels_last", [True, False])
def test_features_are_those_of_the_layer(
    backbone: Backbone, images: Tensor, channels_last: bool
) -> None:
    # Running statistics other than the initial ones, so that evaluation mode matters.
    backbone(torch.randn(16, 3, 32, 32) * 3 + 1)
    encoder = Encoder(backbone, "layer4", 32, mean=MEAN, std=STD, channels_last=channels_last)
    features = encoder.features(images)
    assert features.shape == (4, 128, 4, 4)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    torch.testing.assert_close(features, by_hand(backbone, images, MEAN, STD))


def test_imagenet_statistics_unless_told(backbone: Backbone, images: Tensor) -> None:
    features = Encoder(backbone, "layer4", 32).features(images)
    expected = by_hand(backbone, images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(features, expected)


def test_bf16_is_close_and_comes_out_as_float32(backbone: Backbone, images: Tensor) -> None:
    exact = Encoder(backbone, "layer4", 32).features(images)
    rough = Encoder(backbone, "layer4", 32, precision="bf16").features(images)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_leaves_modes_hooks_weights_and_images_as_they_were(
    backbone: Backbone, images: Tensor
) -> None:
    backbone.train()
    backbone.layer2.eval()  # a frozen part inside a network in training
    modes = [part.training for part in backbone.modules()]
    weights, pixels = weights_sha256(backbone), images.clone()
    Encoder(backbone, "layer4", 32).features(images)
    assert [part.training for part in backbone.modules()] == modes
    assert len(set(modes)) == 2
    assert not any(part._forward_hooks for part in backbone.modules())
    assert weights_sha256(backbone) == weights
    assert torch.equal(images, pixels)


def test_restores_even_when_the_module_fails(images: Tensor) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(7, 7)).train()
    with pytest.raises(RuntimeError):
        Encoder(module, "0", 32).features(images)
    assert all(part.training for part in module.modules())
    assert not module[0]._forward_hooks


def test_a_later_in_place_layer_does_not_reach_the_features(
    backbone: Backbone, images: Tensor
) -> None:
    """Behind the normalisation ``layer4.5`` stands an in-place ReLU, which would cut at 0."""
    assert isinstance(backbone.layer4[6], nn.ReLU)
    assert backbone.layer4[6].inplace
    features = Encoder(backbone, "layer4.5", 32).features(images)
    assert features.min() < 0
    torch.testing.assert_close(features.relu(), Encoder(backbone, "layer4", 32).features(images))


def test_a_call_inside_an_autocast_region_leaves_its_gradients_alone(
    backbone: Backbone, images: Tensor
) -> None:
    encoder = Encoder(backbone, "layer4", 32, precision="bf16")
    with torch.autocast("cpu", torch.bfloat16):
        encoder.features(images)
        loss = backbone(images / 255).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_from_picture_to_box() -> None:
    """An encoder that sees brightness finds a bright rectangle to the pixel."""
    images = torch.full((2, 3, 64, 64), 30, dtype=torch.uint8)
    images[0, :, 16:32, 8:40] = 200
    images[1, 1, 56:64, 0:24] = 31
    encoder = Encoder(nn.Sequential(nn.AvgPool2d(8)), "0", 64)
    heatmaps = min_max(channel_sum(encoder.features(images)))
    boxes, found = boxes_from_heatmaps(heatmaps, BoxRule(threshold=0.5), 64)
    assert found.all()
    assert (boxes * 64).tolist() == [[8, 16, 40, 32], [0, 56, 24, 64]]


def test_the_modules_own_output_has_an_empty_name(images: Tensor) -> None:
    trunk = nn.Conv2d(3, 8, 3, stride=2)
    assert Encoder(trunk, "", 32).features(images).shape == (4, 8, 15, 15)


def test_a_wrong_layer_names_near_ones(backbone: Backbone) -> None:
    with pytest.raises(CcropError, match=r"small has no layer 'layer5' \(did you mean .*layer4"):
        Encoder(backbone, "layer5", 32, name="small")
    with pytest.raises(CcropError, match=r"Backbone has no layer 'ZZZ'.*such as layer1"):
        Encoder(backbone, "ZZZ", 32)


def test_a_layer_without_a_grid_tells_its_shape(backbone: Backbone, images: Tensor) -> None:
    with pytest.raises(CcropError, match=r"'flatten' gives \(4, 128\)"):
        Encoder(backbone, "flatten", 32).features(images)


def test_tokens_of_a_transformer_are_refused_rather_than_misread(images: Tensor) -> None:
    patches = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.Flatten(2))  # (4, 16, 16)
    block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    with pytest.raises(CcropError, match=r"'1' gives \(4, 16, 16\).*tokens"):
        Encoder(nn.Sequential(patches, block), "1", 32).features(images)


def test_fp16_needs_cuda(backbone: Backbone) -> None:
    with pytest.raises(CcropError, match="fp16 needs a CUDA device, and this is cpu"):
        Encoder(backbone, "layer4", 32, precision="fp16")


class Patches(nn.Module):
    """Means of 8x8 patches as tokens, behind some tokens of zeros."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, images: Tensor) -> Tensor:
        means = nn.functional.avg_pool2d(images, 8).flatten(2).transpose(1, 2)
        return torch.cat([means.new_zeros(len(means), self.prefix, 3), means], dim=1)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_go_back_to_their_grid(images: Tensor, prefix: int) -> None:
    encoder = Encoder(Patches(prefix), "", 32, layout="tokens", prefix_tokens=prefix)
    expected = by_hand_means(images)
    torch.testing.assert_close(encoder.features(images), expected)
    assert not encoder.has_attention
    with pytest.raises(CcropError, match=rf"{16 + prefix} tokens without {prefix + 1} .*no square"):
        Encoder(Patches(prefix), "", 32, layout="tokens", prefix_tokens=prefix + 1).features(images)


def test_channels_that_come_last_are_put_first(images: Tensor) -> None:
    class Last(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(images, 8).permute(0, 2, 3, 1)

    encoder = Encoder(Last(), "", 32, layout="bhwc")
    torch.testing.assert_close(encoder.features(images), by_hand_means(images))


def by_hand_means(images: Tensor) -> Tensor:
    blocks = images.float().reshape(4, 3, 4, 8, 4, 8).mean(dim=(3, 5)) / 255
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
    return (blocks - mean) / std


@pytest.mark.slow
def test_compiling_changes_neither_layer_nor_features(backbone: Backbone, images: Tensor) -> None:
    """Code compiled for one layer is not used for another one of the same network."""
    torch._dynamo.reset()
    for layer in ("layer3", "layer4"):
        plain = Encoder(backbone, layer, 32).features(images)
        compiled = Encoder(backbone, layer, 32, compile=True).features(images)
        torch.testing.assert_close(compiled, plain)
    assert not any(part._forward_hooks for part in backbone.modules())


def test_a_layer_that_gives_no_tensor_is_refused() -> None:
    module = nn.Sequential(nn.Flatten(2), nn.Flatten(0, 1), nn.LSTM(64, 4))
    with pytest.raises(CcropError, match="'2' gives tuple"):
        Encoder(module, "2", 8).features(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_a_layer_that_takes_no_part_is_refused(images: Tensor) -> None:
    module = nn.AvgPool2d(8)
    module.spare = nn.Identity()
    with pytest.raises(CcropError, match="'spare' took no part"):
        Encoder(module, "spare", 32).features(images)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 32, 32),
        torch.zeros(3, 32, 32, dtype=torch.uint8),
        torch.zeros(1, 3, 33, 32, dtype=torch.uint8),
        torch.zeros(1, 1, 32, 32, dtype=torch.uint8),
    ],
)
def test_refuses_other_images(backbone: Backbone, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"images must be uint8 \(B, 3, 32, 32\)"):
        Encoder(backbone, "layer4", 32).features(images)


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "int8"},
        {"layout": "bcwh"},
        {"prefix_tokens": -1},
        {"input_size": 0},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (0.5, 0.5)},
    ],
)
def test_refuses_fields_that_make_no_sense(backbone: Backbone, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Encoder(**({"module": backbone, "layer": "layer4", "input_size": 32} | wrong))


def test_info_speaks_for_the_weights_of_the_moment(backbone: Backbone) -> None:
    encoder = Encoder(backbone, "layer4", 32, name="small", epoch=20)
    before = encoder.info
    assert before == EncoderInfo("small", "layer4", weights_sha256(backbone), 20)
    with torch.no_grad():
        backbone.layer1[0].weight[0, 0, 0, 0] += 1
    assert encoder.info.weights_sha256 != before.weights_sha256


def test_hash_is_over_names_dtypes_shapes_and_bytes() -> None:
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.5, -2.0]]))
        linear.bias.fill_(0.25)
    written = b"bias\0torch.float32\0(1,)\0" + struct.pack("<f", 0.25)
    written += b"weight\0torch.float32\0(1, 2)\0" + struct.pack("<2f", 1.5, -2.0)
    assert weights_sha256(linear) == hashlib.sha256(written).hexdigest()


def test_hash_ignores_memory_layout_and_mode_but_not_buffers(backbone: Backbone) -> None:
    before = weights_sha256(backbone)
    assert weights_sha256(backbone.to(memory_format=torch.channels_last)) == before
    assert weights_sha256(backbone.eval()) == before
    backbone.layer1[1].num_batches_tracked += 1
    assert weights_sha256(backbone) != before
