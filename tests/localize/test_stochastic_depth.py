"""Stochastic depth against its definition: keep rates, rows, processes, checkpointing, refusals."""

import copy

import pytest
import torch
from torchvision import models

from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.localize.stochastic_depth import DropPath, share_paths
from ccrop_pipeline.methods.shared import momentum_copy
from ccrop_pipeline.models.trainable import open_backbone
from ccrop_pipeline.recipes import Recipe

EFFICIENTNET = "torchvision:efficientnet_b0"


def rates(module):
    return [part.rate for part in module.modules() if isinstance(part, DropPath)]


def drawn(module, images, seed=0):
    torch.manual_seed(seed)
    return module(images)


def test_rows_are_dropped_at_the_rate_and_keep_their_mean():
    rows, rate = 20_000, 0.3
    out = drawn(DropPath(rate).train(), torch.ones(rows, 2, 3))
    assert torch.equal(out, out[:, :1, :1].expand_as(out))  # whole rows
    values = out[:, 0, 0]
    assert set(values.tolist()) == {0.0, values.max().item()}
    assert values.max().item() == pytest.approx(1 / (1 - rate))
    four_sigma = 4 * (rate * (1 - rate) / rows) ** 0.5
    assert (values > 0).float().mean().item() == pytest.approx(1 - rate, abs=four_sigma)


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_convnext"])
def test_rates_of_timm_grow_linearly_from_the_first_block_to_the_last(name):
    pytest.importorskip("timm")
    backbone = open_backbone(name, [32], drop_path_rate=0.2)
    each = 2 if "vit" in name else 1  # attention and MLP of a block have one each
    blocks = 1 + len(rates(backbone)) // each  # timm leaves that of the first block, 0, out
    expected = torch.linspace(0, 0.2, blocks)[1:].repeat_interleave(each)
    assert rates(backbone) == pytest.approx(expected.tolist())


def test_torchvisions_own_rates_are_scaled_and_never_taken_unasked():
    whole = models.efficientnet_b0(weights=None)
    theirs = [part.p for part in whole.modules() if type(part).__name__ == "StochasticDepth"]
    assert max(theirs) > 0  # drops paths although nobody asked for it
    assert set(rates(open_backbone(EFFICIENTNET, [64]))) == {0.0}
    found = rates(open_backbone(EFFICIENTNET, [64], drop_path_rate=0.4))
    assert found == pytest.approx([0.4 * own / max(theirs) for own in theirs])


def test_only_the_online_encoder_in_training_drops_paths():
    pytest.importorskip("timm")
    images = torch.randn(8, 3, 32, 32)
    plain = open_backbone("timm:test_vit", [32]).train()
    backbone = open_backbone("timm:test_vit", [32], drop_path_rate=0.9).train()
    backbone.load_state_dict(plain.state_dict())
    expected = drawn(plain, images)
    assert torch.equal(drawn(plain, images, seed=1), expected)
    assert torch.equal(torch.get_rng_state(), torch.manual_seed(1).get_state())  # draws nothing
    assert not torch.allclose(drawn(backbone, images), expected)
    assert torch.equal(drawn(backbone, images), drawn(backbone, images))
    assert torch.equal(momentum_copy(backbone).train()(images), expected)
    assert set(rates(momentum_copy(backbone))) == {0.0}
    assert max(rates(backbone)) == 0.9
    assert torch.equal(backbone.eval()(images), expected)


@pytest.mark.parametrize("views", [1, 2])
def test_several_processes_draw_as_one(views):
    rows = torch.ones(views, 3, 4, 1)  # of three processes with four images each
    whole = drawn(DropPath(0.5).train(), rows.view(-1, 1)).view_as(rows)
    assert 0 < whole.count_nonzero() < whole.numel()
    for rank in range(3):
        part = DropPath(0.5).train()
        share_paths(part, 4, rank=rank, count=3)
        assert torch.equal(
            drawn(part, rows[:, rank].reshape(-1, 1)).view(views, 4, 1), whole[:, rank]
        )


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_convnext"])
def test_blocks_that_are_computed_again_drop_the_same(name):
    pytest.importorskip("timm")
    plain = open_backbone(name, [32], drop_path_rate=0.5).train()
    again = copy.deepcopy(plain)
    again.checkpoint_blocks()
    images = torch.randn(4, 3, 32, 32)
    for backbone in (plain, again):
        drawn(backbone, images).square().sum().backward()
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("name", ["small", "timm:ghostnet_050", "torchvision:mnasnet0_5"])
def test_a_network_without_it_is_refused(name):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    message = rf"drop_path_rate is 0\.1, and {name} has no stochastic depth.*ViT"
    with pytest.raises(SettingError, match=message):
        open_backbone(name, [64], drop_path_rate=0.1)
    if name == "small":  # refused before anything is built
        with pytest.raises(SettingError, match=message):
            Recipe(backbone=name, drop_path_rate=0.1)
