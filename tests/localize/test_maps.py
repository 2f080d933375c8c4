import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ccrop_pipeline.boxset import LocalizerInfo
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import (
    MAPS,
    Attention,
    BoxRule,
    Encoder,
    Localizer,
    boxes_from_heatmaps,
    build_backbone,
    choose_map,
    rule_of,
)
from ccrop_pipeline.localize.attention import class_attention, key_similarity
from ccrop_pipeline.localize.encoder import probe_images
from ccrop_pipeline.localize.heatmaps import absolute_sum, first_component, l2_norm


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_absolute_sum_and_norm_of_each_cell() -> None:
    features = noise(2, 5, 3, 4)
    sums, norms = absolute_sum(features), l2_norm(features)
    for b, y, x in np.ndindex(2, 3, 4):
        cell = [float(features[b, c, y, x]) for c in range(5)]
        assert float(sums[b, y, x]) == pytest.approx(math.fsum(map(abs, cell)), rel=1e-6)
        assert float(norms[b, y, x]) == pytest.approx(math.hypot(*cell), rel=1e-6)


@pytest.mark.parametrize("reduce", [absolute_sum, l2_norm, first_component])
def test_reductions_refuse_tokens(reduce) -> None:
    with pytest.raises(ValueError, match=r"not \(2, 197, 768\)"):
        reduce(torch.zeros(2, 197, 768))


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 7, 7), (40, 5, 4), (8, 3, 9)])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_first_component_is_that_of_numpys_svd(
    channels: int, height: int, width: int, scale: float
) -> None:
    features = noise(6, channels, height, width) * scale
    for one, ours in zip(features, first_component(features), strict=True):
        cells = one.double().flatten(1).numpy() / scale
        expected = np.linalg.svd(cells - cells.mean(1, keepdims=True))[2][0].reshape(height, width)
        inside = expected[1:-1, 1:-1]
        outside = (expected.sum() - inside.sum()) / (expected.size - inside.size)
        expected = expected * -np.sign(outside)
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_first_component_is_hot_where_an_object_differs_from_its_surroundings() -> None:
    """Signed features that cancel in the sum: the object points one way, the border the other."""
    features = noise(4, 16, 8, 8) * 0.05
    way = noise(16, seed=1)[:, None, None]
    features -= way
    features[:, :, 2:5, 3:6] += 2 * way
    boxes, found = boxes_from_heatmaps(min_max_of(first_component(features)), BoxRule(0.5), 64)
    assert boxes.tolist() == [[3 / 8, 2 / 8, 6 / 8, 5 / 8]] * 4
    assert found.all()


def min_max_of(maps: Tensor) -> Tensor:
    from ccrop_pipeline.localize import min_max

    return min_max(maps)


@pytest.mark.parametrize("grid", [(1, 5), (2, 2)])
def test_without_an_inside_the_greatest_projection_is_positive(grid: tuple[int, int]) -> None:
    maps = first_component(noise(20, 6, *grid)).flatten(1)
    extremes = maps.gather(1, maps.abs().argmax(dim=1, keepdim=True))
    assert (extremes > 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_first_component_of_what_has_none_has_no_heat(bad: float) -> None:
    features = noise(4, 5, 6, 6)
    alone = first_component(features[[0, 3]])
    features[1] = 0.1  # the same in all cells
    features[2, 3, 4, 5] = bad
    maps = first_component(features)
    assert maps[1].eq(0).all()
    assert maps[2].isnan().all()
    torch.testing.assert_close(maps[[0, 3]], alone)


def made_attention(prefix: int = 2, batch: int = 3, heads: int = 4) -> Attention:
    tokens = prefix + 12
    queries, keys = noise(2, batch, heads, tokens, 8, seed=5)
    return Attention(queries, keys, prefix, (3, 4), 8**-0.5)


@pytest.mark.parametrize("heads", ["mean", "max"])
def test_class_attention_by_loops(heads) -> None:
    attention = made_attention()
    maps = class_attention(attention, heads)
    assert maps.shape == (3, 3, 4)
    for b, y, x in np.ndindex(3, 3, 4):
        weights = []
        for head in range(4):
            query = attention.queries[b, head, 0].tolist()
            logits = [
                math.fsum(q * k for q, k in zip(query, key, strict=True)) * attention.scale
                for key in attention.keys[b, head].tolist()
            ]
            total = math.fsum(map(math.exp, logits))
            weights.append(math.exp(logits[2 + 4 * y + x]) / total)
        expected = max(weights) if heads == "max" else math.fsum(weights) / 4
        assert float(maps[b, y, x]) == pytest.approx(expected, rel=1e-5)


def test_no_class_token_no_attention_of_it() -> None:
    with pytest.raises(CcropError, match="no class token"):
        class_attention(made_attention(prefix=0), "mean")


def test_key_similarity_by_loops() -> None:
    attention = made_attention(prefix=1, batch=5)
    maps = key_similarity(attention)
    for image in range(5):
        keys = attention.keys[image, :, 1:].transpose(0, 1).flatten(1).double().numpy()
        alike = np.array([[np.dot(one, other) for other in keys] for one in keys])
        ranks = [((row > 0).sum(), row[row > 0].sum(), place) for place, row in enumerate(alike)]
        seed = min(ranks)[2]
        np.testing.assert_allclose(maps[image].flatten(), alike[seed].clip(0), atol=1e-5)


def test_the_object_is_what_few_keys_resemble() -> None:
    keys = torch.full((1, 1, 13, 2), 1.0) * torch.tensor([1.0, -0.2])
    keys[0, 0, 1 + 5] = keys[0, 0, 1 + 6] = torch.tensor([-1.0, 3.0])
    attention = Attention(keys, keys, 1, (3, 4), 1.0)
    expected = torch.zeros(3, 4)
    expected[1, 1:3] = 10.0
    assert torch.equal(key_similarity(attention)[0], expected)


class Signed(nn.Module):
    """Features around nought, as those before an activation are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


def small() -> Encoder:
    torch.manual_seed(0)
    return Encoder(build_backbone("small"), "layer4", 32, name="small")


def transformer(**settings: object) -> Encoder:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    settings = {"img_size": 64, "depth": 2, "num_classes": 0} | settings
    module = timm.create_model("vit_tiny_patch16_224", **settings)
    prefix = module.num_prefix_tokens
    return Encoder(module, "blocks.1", 64, name="vit", layout="tokens", prefix_tokens=prefix)


def test_probe_images_are_always_the_same() -> None:
    images = probe_images(20)
    assert (images.shape, images.dtype) == ((8, 3, 20, 20), torch.uint8)
    assert torch.equal(images, probe_images(20))
    assert images.float().std() > 40
    assert images[0].flatten(1).unique(dim=1).shape[1] <= 4  # blocks a half of the side wide


def test_auto_takes_the_sum_only_where_nothing_cancels() -> None:
    assert choose_map(small()) == "sum"
    assert choose_map(Encoder(Signed(), "conv", 32)) == "l2"
    assert choose_map(transformer()) == "keys"


def test_signed_features_are_not_summed_silently() -> None:
    signed = Encoder(Signed(), "conv", 32, name="signed")
    warning = Localizer(signed, "sum").warning
    assert warning is not None
    assert "can be negative" in warning
    assert repr(choose_map(signed)) in warning
    assert Localizer(small(), "sum").warning is None
    assert Localizer(signed, choose_map(signed)).warning is None


@pytest.mark.parametrize("name", MAPS)
def test_every_map_of_a_transformer_gives_boxes(name: str) -> None:
    localizer = Localizer(transformer(), name, BoxRule(0.5, margin=0.1))
    images = probe_images(64)
    heatmaps, boxes, found = localizer.locate(images)
    assert (heatmaps.dtype, heatmaps.shape) == (torch.float16, (8, 4, 4))
    assert found.all()
    expected, _ = boxes_from_heatmaps(heatmaps, localizer.rule, 64)
    assert torch.equal(boxes, expected)
    assert torch.equal(localizer.heatmaps(images), heatmaps)


def test_maps_of_one_encoder_differ() -> None:
    heatmaps = [Localizer(transformer(), name).heatmaps(probe_images(64)) for name in MAPS]
    for place, one in enumerate(heatmaps):
        assert all(not torch.equal(one, other) for other in heatmaps[:place])


def test_what_is_constant_has_the_full_box() -> None:
    encoder = small()
    for weight in encoder.module.parameters():
        weight.data.zero_()
    heatmaps, boxes, found = Localizer(encoder, "l2", BoxRule(0.1)).locate(probe_images(32)[:2])
    assert heatmaps.eq(0).all()
    assert boxes.tolist() == [[0, 0, 1, 1]] * 2
    assert not found.any()


@pytest.mark.parametrize("name", ["attention", "attention-max", "keys"])
def test_attention_of_what_has_none_is_refused_with_advice(name: str) -> None:
    with pytest.raises(CcropError, match=r"sum, abs, l2, pca"):
        Localizer(small(), name)


def test_attention_of_a_class_token_that_is_not_there_is_refused() -> None:
    encoder = transformer(class_token=False, global_pool="avg")
    with pytest.raises(CcropError, match="or keys"):
        Localizer(encoder, "attention")
    assert Localizer(encoder, "keys", BoxRule(0.1)).locate(probe_images(64))[2].all()


def test_an_unknown_map_is_refused() -> None:
    with pytest.raises(ValueError, match="map is 'auto'"):
        Localizer(small(), "auto")


def test_what_a_box_set_records() -> None:
    rule = BoxRule(None, 0.6, margin=0.25, min_size=0.3)
    info = Localizer(small(), "l2", rule).info
    assert isinstance(info, LocalizerInfo)
    assert (info.map, info.threshold, info.mass, info.component) == ("l2", None, 0.6, "all")
    assert (info.margin, info.min_size, info.input_size) == (0.25, 0.3, 32)
    assert info.interpolation == "bilinear"
    assert "fp32" in info.preprocessing
    assert rule_of(info) == rule
    largest = BoxRule(0.2, component="largest")
    assert rule_of(Localizer(small(), "sum", largest).info) == largest
