import copy

import pytest
import torch
from made_methods import made, made_views
from torch import nn

from ccrop_pipeline.localize import build_backbone
from ccrop_pipeline.methods.batch_norm import Shuffle, SynchronisedBatchNorm, shuffled, synchronise


def stirred_backbone():
    """Norms that are no identity, so that a forgotten weight or bias shows."""
    torch.manual_seed(3)
    backbone = build_backbone("small")
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return backbone


@pytest.mark.parametrize(("images", "groups"), [(12, 3), (13, 4), (7, 8), (3, 8), (6, 1)])
def test_shuffled_batch_norm_is_plain_batch_norm_of_each_group(images, groups):
    plain, model, shuffle = stirred_backbone(), stirred_backbone(), Shuffle(groups)
    shuffled(model, shuffle)
    batch = made_views("simclr", images)[0]
    torch.manual_seed(11)
    order = shuffle.draw(images)
    with torch.no_grad():
        result = model(batch[order])[order.argsort()]
    torch.manual_seed(11)
    parts = torch.randperm(images).tensor_split(max(1, min(groups, images // 2)))
    assert min(map(len, parts)) >= 2 or images < 4
    first = {name: [] for name in ("running_mean", "running_var")}
    for part in parts:
        fresh = copy.deepcopy(plain)
        with torch.no_grad():
            torch.testing.assert_close(result[part], fresh(batch[part]), rtol=1e-4, atol=1e-5)
        for name, values in first.items():
            values.append(getattr(fresh.layer1[1], name))
    for name, values in first.items():
        torch.testing.assert_close(getattr(model.layer1[1], name), torch.stack(values).mean(0))
    assert model.layer1[1].num_batches_tracked == 1


def test_every_step_shuffles_anew_and_the_same_seed_shuffles_alike():
    shuffle = Shuffle(4)
    torch.manual_seed(0)
    first, second = shuffle.draw(64).tolist(), shuffle.draw(64).tolist()
    torch.manual_seed(0)
    assert shuffle.draw(64).tolist() == first != second


def test_shuffled_batch_norm_is_plain_in_evaluation_and_in_files():
    plain, model = stirred_backbone(), stirred_backbone()
    shuffled(model, Shuffle(4))
    assert model.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(model.state_dict())
    batch = made_views("simclr")[0]
    assert torch.equal(model.eval()(batch), plain.eval()(batch))


def test_groups_change_keys():
    """What the shuffle is for: a key's statistics are not those of the query's batch."""
    keys = []
    for groups in (1, 4):
        moco = made("mocov2", bn_groups=groups)
        moco(made_views("mocov2"))
        keys.append(moco.criterion.memory_bank.keys[:16])
    assert (keys[0] - keys[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["simclr", "mocov2", "simsiam"])
def test_synchronising_keeps_names_tensors_and_shuffled_layers(name):
    model = made(name)
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    model.synchronise_batch_norm()
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert before.keys() == after.keys()
    assert all(before[key] is after[key] for key in before)
    online = [m for m in model.backbone.modules() if "BatchNorm" in type(m).__name__]
    assert {type(m) for m in online} == {SynchronisedBatchNorm}
    if name == "mocov2":
        kinds = {type(m).__name__ for m in model.momentum_backbone.modules()}
        assert "ShuffledBatchNorm" in kinds
        assert "SynchronisedBatchNorm" not in kinds


def test_synchronised_batch_norm_is_plain_in_evaluation():
    plain, model = stirred_backbone().eval(), stirred_backbone().eval()
    synchronise(model)
    batch = made_views("simclr")[0]
    assert torch.equal(model(batch), plain(batch))
