"""The linear head: FOUND's arithmetic, and the fit against a slow one."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import Encoder, LinearHead, Localizer, build_backbone
from ccrop_pipeline.localize.encoder import probe_images
from ccrop_pipeline.localize.linear_head import fit_head


def random_head(channels: int, on="keys", seed: int = 0) -> LinearHead:
    generator = torch.Generator().manual_seed(seed)
    return LinearHead(torch.randn(channels, generator=generator) / channels, 0.01, on)


def test_heat_is_the_sigmoid_and_above_a_half_exactly_where_the_score_is_above_0() -> None:
    cells = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(1))
    head = random_head(6)
    cells[0] *= 1e-5  # scores that float16 would round to a half
    cells[1] *= 100
    plain = LinearHead(head.weight, 0.0, "keys")
    heatmaps = plain.heatmaps(cells, (4, 5))
    assert (heatmaps.dtype, heatmaps.shape) == (torch.float16, (3, 4, 5))
    for image, y, x in np.ndindex(3, 4, 5):
        pairs = zip(cells[image, 5 * y + x].tolist(), head.weight.tolist(), strict=True)
        score = math.fsum(a * b for a, b in pairs)
        heat = float(heatmaps[image, y, x])
        assert heat == pytest.approx(1 / (1 + math.exp(-score)), abs=6e-4)
        assert (heat > 0.5) == (score > 0)
        assert 0 <= heat <= 1


def test_a_heatmap_does_not_depend_on_its_batch_and_nan_has_no_heat() -> None:
    cells = torch.randn(5, 49, 64, generator=torch.Generator().manual_seed(2))
    head = random_head(64)
    heatmaps = head.heatmaps(cells, (7, 7))
    for number in range(5):
        alone = head.heatmaps(cells[number : number + 1], (7, 7))
        assert torch.equal(alone[0], heatmaps[number])
    cells[2, 5, 5] = math.nan
    found = head.heatmaps(cells, (7, 7))
    assert found.flatten(1).any(dim=1).tolist() == [True, True, False, True, True]


def test_it_is_founds_convolution_on_the_keys_of_the_last_block() -> None:
    """Section 3.3 of FOUND; the keys cut out of the output of qkv, as its code does."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", img_size=96, depth=2, num_classes=0)
    encoder = Encoder(module, "blocks.1", 96, layout="tokens", prefix_tokens=1)
    decoder = nn.Conv2d(192, 1, 1)
    outputs = []
    hook = module.blocks[1].attn.qkv.register_forward_hook(lambda *call: outputs.append(call[2]))
    encoder.run(probe_images(96))
    hook.remove()
    keys = outputs[0].reshape(8, 37, 3, 3, 64)[:, 1:, 1].reshape(8, 6, 6, 192).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = decoder(keys)[:, 0].sigmoid()
    head = LinearHead(decoder.weight.detach().flatten(), float(decoder.bias.detach()), "keys")
    heatmaps, boxes, _ = Localizer(encoder, "linear", head=head).locate(probe_images(96))
    np.testing.assert_allclose(heatmaps, expected, atol=1e-3)
    np.testing.assert_array_equal(heatmaps > 0.5, expected > 0.5)
    assert boxes.shape == (8, 4)


def test_a_head_for_other_channels_is_refused() -> None:
    encoder = Encoder(build_backbone("small"), "layer4", 32)
    localizer = Localizer(encoder, "linear", head=random_head(7, "layer"))
    with pytest.raises(CcropError, match="takes 7 channels, and the layer of this encoder has 128"):
        localizer.heatmaps(probe_images(32))
    with pytest.raises(CcropError, match="must be given together"):
        Localizer(encoder, "linear")
    with pytest.raises(CcropError, match="must be given together"):
        Localizer(encoder, "sum", head=random_head(128, "layer"))


def test_heads_of_other_numbers_or_for_other_cells_have_other_names_in_a_box_set() -> None:
    encoder = Encoder(build_backbone("small"), "layer4", 32)
    heads = [random_head(9), random_head(9, seed=1), random_head(9, "layer")]
    names = {Localizer(encoder, "linear", head=head).info.map for head in heads}
    assert len(names) == 3
    assert Localizer(encoder, "linear", head=random_head(9)).info.map in names


def test_the_fit_is_that_of_gradient_descent() -> None:
    generator = np.random.default_rng(0)
    cells = generator.normal(size=(300, 4)) * [1, 5, 0.2, 1] + [0, 3, -1, 2]
    cells[:, 3] = 2  # tells nothing, and has no deviation
    targets = 1 / (1 + np.exp(-(cells[:, 0] - cells[:, 1] + 2)))
    targets[::2] = generator.random(150) < targets[::2]
    cells, targets = cells.astype(np.float32), targets.astype(np.float32)
    head = fit_head(torch.from_numpy(cells), torch.from_numpy(targets), "layer", penalty=0.01)

    x = cells.astype(np.float64)
    deviation = x.std(0)
    x = (x - x.mean(0)) / np.where(deviation > 0, deviation, 1)
    weight, bias = np.zeros(4), 0.0
    for _ in range(20_000):
        wrong = 1 / (1 + np.exp(-(x @ weight + bias))) - targets
        weight -= 0.5 * (x.T @ wrong / 300 + 0.01 * weight)
        bias -= 0.5 * wrong.mean()
    expected = x @ weight + bias
    np.testing.assert_allclose(cells @ head.weight.numpy() + head.bias, expected, atol=1e-4)
    assert float(head.weight[3]) == 0


def test_the_fit_is_always_the_same_and_needs_two_kinds_of_cells() -> None:
    cells = torch.randn(40_000, 5, generator=torch.Generator().manual_seed(0))
    targets = (cells[:, 0] > 0).float()  # can be parted without an error: the penalty holds it
    first, second = fit_head(cells, targets, "keys"), fit_head(cells, targets, "keys")
    assert first.sha256 == second.sha256
    assert first.weight.isfinite().all()
    right = (cells @ first.weight + first.bias > 0) == (targets > 0)
    assert right.double().mean() > 0.99
    with pytest.raises(CcropError, match="no cell differs"):
        fit_head(cells, torch.ones(40_000), "keys")
    with pytest.raises(CcropError, match="not finite"):
        fit_head(cells * math.inf, targets, "keys")
